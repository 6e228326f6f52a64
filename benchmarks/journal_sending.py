"""How many small messages a second a durable kernel takes from many senders at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import anyio

import ringflow
from benchmarks.table import Row, at_least, median
from ringflow.code_source import KernelCodeSource
from ringflow.spec import KernelSpec

SENDERS: Final = 64
GOAL: Final = 15_000.0
SOURCE: Final = """
#include <ringflow.cuh>
#include <ringflow_messages.cuh>
extern "C" __global__ void sum(ringflow::control* control, unsigned long long* total) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (self.leader()) total[0] += m.as<Number>().value;
    }
}
"""


@ringflow.message(1)
class Number:
    value: ringflow.u64


def spec() -> KernelSpec:
    return KernelSpec(
        kernel_id="sum",
        kernel_type="sum",
        code=KernelCodeSource.from_cuda(SOURCE, "sum"),
        messages=[Number],
        regions=[ringflow.Region("total", dtype="uint64", shape=(1,))],
        block=(32, 1, 1),
        durability="durable",
        max_replies=0,
    )


async def send(folder: Path, backend: str, *, quick: bool) -> list[Row]:
    """Let ``SENDERS`` tasks send one by one, each waiting until its message is durable."""
    each, rounds = (5, 2) if quick else (300, 7)
    rates: list[float] = []
    async with ringflow.open_engine(folder / "engine", devices=["host:0"]) as engine:
        kernel = await engine.launch(spec(), device="host:0")

        async def sender() -> None:
            for number in range(each):
                await kernel.send(Number(number))

        for _ in range(rounds):
            start = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(SENDERS):
                    tasks.start_soon(sender)
            rates.append(SENDERS * each / (time.perf_counter() - start))
        await (await kernel.send(Number(0))).done()
        async with kernel.held() as state:
            total = int(state["total"].numpy()[0])
        assert total == SENDERS * rounds * each * (each - 1) // 2, "a message was lost or doubled"
    return [at_least(f"durable send, {SENDERS} senders ({backend})", median(rates), "1/s", GOAL)]
