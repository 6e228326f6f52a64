"""A process that keeps an engine busy until it is killed: ``python -m tests.engine.child FOLDER``.

It prints the number of each message that was acknowledged as durable, while it migrates its kernel
back and forth.
"""

from __future__ import annotations

import sys

import anyio

import ringflow
from tests.engine.kernels import Add, adder


async def main(folder: str) -> None:
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        if engine.kernels():
            kernel = engine.kernel("adder")
        else:
            kernel = await engine.launch(adder(), device="host:0")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce, kernel)
            while True:
                here = engine.kernels()[0].device
                await engine.migrate("adder", to="host:1" if here == "host:0" else "host:0")


async def produce(kernel: ringflow.KernelHandle) -> None:
    number = kernel.last_number("child")
    while True:
        number += 1
        await kernel.send(Add(number * 7), producer="child", number=number)
        print(number, flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
