"""A process that keeps an engine busy until it is killed.

``python -m tests.engine.child FOLDER DEVICE DEVICE`` prints the number of each message that was
acknowledged as durable, while it migrates its kernel back and forth.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio

import ringflow
from tests.engine.kernels import Add, adder

ROOT = Path(__file__).parents[2]


async def main(folder: str, one: str, other: str) -> None:
    async with ringflow.open_engine(folder, devices=[one, other]) as engine:
        if engine.kernels():
            kernel = engine.kernel("adder")
        else:
            kernel = await engine.launch(adder(), device=one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce, kernel)
            while True:
                here = engine.kernels()[0].device
                await engine.migrate("adder", to=other if here == one else one)


async def run_and_kill(folder: Path, devices: Sequence[str] = ("host:0", "host:1")) -> int:
    """Run it until 60 messages were acknowledged, and kill it; return the last one's number."""
    acknowledged = 0
    command = [sys.executable, "-m", "tests.engine.child", str(folder), *devices]
    async with await anyio.open_process(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=None
    ) as process:
        assert process.stdout is not None
        text = b""
        with anyio.fail_after(120):
            async for chunk in process.stdout:
                text += chunk
                numbers = [
                    int(line) for line in text.splitlines(keepends=True) if line[-1:] == b"\n"
                ]
                acknowledged = max(numbers, default=0)
                if len(numbers) >= 60:
                    process.kill()
                    break
    return acknowledged


async def produce(kernel: ringflow.KernelHandle) -> None:
    number = kernel.last_number("child")
    while True:
        number += 1
        await kernel.send(Add(number * 7), producer="child", number=number)
        print(number, flush=True)


if __name__ == "__main__":
    anyio.run(partial(main, *sys.argv[1:]))
