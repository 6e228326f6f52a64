"""A story in a process of its own: ``python -m tests.gpu.child STORY BACKEND FOLDER``.

A trap takes a GPU's context with it, and with that the GPU from the whole process.
"""

from __future__ import annotations

import sys

import anyio

import ringflow
from tests.gpu import stories

TRAPPING = {story.__name__: story for story in (stories.rolls_back, stories.survives_a_trap)}


async def main(name: str, folder: str) -> None:
    async with ringflow.open_engine(folder, devices=["cuda:0", "host:0"]) as engine:
        await TRAPPING[name](engine, "cuda:0")


if __name__ == "__main__":
    story, backend, place = sys.argv[1:]
    anyio.run(main, story, place, backend=backend)
    print("told to its end")
