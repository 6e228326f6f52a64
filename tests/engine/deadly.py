"""A process that a kernel's message kills: ``python -m tests.engine.deadly FOLDER``.

The first one launches two kernels and sends the message. It is killed by it, and so is each later
one that opens the folder.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import anyio

import ringflow
from tests.engine.kernels import Trap, adder, code
from tests.engine.story import send_all

ROOT = Path(__file__).parents[2]
STORE = "*(volatile int*)(unsigned long long)0x10 = 1;"


def deadly_code() -> ringflow.KernelCodeSource:
    """Return the adder's code, which on ``Trap`` stores where the process has no memory."""
    source = code().text
    assert "__trap();" in source
    return ringflow.KernelCodeSource.from_cuda(source.replace("__trap();", STORE, 1), "adder")


async def main(folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        if not engine.kernels():
            kernel = await engine.launch(adder("deadly", code=deadly_code()))
            await send_all(await engine.launch(adder("innocent")), [1, 2])
            await send_all(kernel, [3])
            await kernel.send(Trap())
        await anyio.sleep_forever()


def run_until_killed(folder: Path) -> tuple[int, str]:
    """Return the process's exit code, and what it said on stderr."""
    command = [sys.executable, "-m", "tests.engine.deadly", str(folder)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    return ended.returncode, ended.stderr


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
