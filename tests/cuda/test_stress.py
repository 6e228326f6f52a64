"""Everything at once on the stand-in's GPUs, in a seeded order, with and without a loss of one.

Kernels are fed, moved, reloaded, saved, held, launched and stopped at the same time; at the end
each must hold the fold of its messages, and the journal must replay.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import anyio
import attrs
import pytest

import ringflow
from ringflow.engine.replay import replay_records
from tests.cuda.engines import opened_engine
from tests.cuda.standin import Standin, plug
from tests.engine.kernels import Add, Total, adder, code, expected_state
from tests.engine.story import state_of
from tests.recovery.crashes import events_of

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PLACES = ("cuda:0", "cuda:1", "host:0")
KERNELS = ("k0", "k1", "k2", "k3")
DURATION_S = 4.0


@attrs.define
class Stress:
    """One run; ``values`` are the numbers that each kernel was sent."""

    engine: ringflow.Engine
    draw: random.Random
    loses: bool
    values: dict[str, list[int]] = attrs.field(factory=dict)
    ends_at_s: float = attrs.field(factory=lambda: time.monotonic() + DURATION_S)

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.ends_at_s

    async def produce(self, kernel_id: str) -> None:
        kernel = self.engine.kernel(kernel_id)
        while self.goes_on:
            value = self.draw.randrange(1 << 30)
            await kernel.send(Add(value))
            self.values[kernel_id].append(value)
            if self.draw.random() < 0.1:
                await kernel.call(Total(), timeout_s=60)

    async def act(self, kernel_id: str) -> None:
        acts = (self._move, self._cancel, self._reload, self._save, self._hold)
        while self.goes_on:
            try:
                await self.draw.choice(acts)(kernel_id)
            except ringflow.UsageError:
                pass  # it is there already, or an operation has it
            except (ringflow.OperationFailedError, ringflow.DeviceError):
                if not self.loses:
                    raise

    async def _move(self, kernel_id: str) -> None:
        await self.engine.migrate(kernel_id, to=self.draw.choice(PLACES))

    async def _cancel(self, kernel_id: str) -> None:
        operation = self.engine.start_migration(kernel_id, to=self.draw.choice(PLACES))
        await anyio.sleep(self.draw.random() * 0.02)
        await operation.cancel()

    async def _reload(self, kernel_id: str) -> None:
        messages = self.draw.choice((0, 5))
        await self.engine.reload(
            kernel_id, code(), probation_messages=messages, probation_timeout_s=0.1
        )

    async def _save(self, kernel_id: str) -> None:
        await self.engine.checkpoint(kernel_id)

    async def _hold(self, kernel_id: str) -> None:
        async with self.engine.kernel(kernel_id).held():
            await anyio.sleep(self.draw.random() * 0.05)

    async def come_and_go(self) -> None:
        number = 0
        while self.goes_on:
            number += 1
            kernel_id = f"guest{number}"
            spec = adder(kernel_id, grid=(1, 1, 1))
            guest = await self.engine.launch(spec, device=self.draw.choice(PLACES[:2]))
            await guest.send(Add(1))
            await self.engine.stop(kernel_id)

    async def lose(self, gpus: Standin) -> None:
        await anyio.sleep(DURATION_S * self.draw.random())
        gpus.kill(self.draw.randrange(2), self.draw.choice((700, 719)))

    async def run(self, gpus: Standin) -> None:
        for index, kernel_id in enumerate(KERNELS):
            self.values[kernel_id] = []
            await self.engine.launch(adder(kernel_id), device=PLACES[index % 2])
        async with anyio.create_task_group() as tasks:
            for kernel_id in KERNELS:
                tasks.start_soon(self.produce, kernel_id)
                tasks.start_soon(self.act, kernel_id)
            if self.loses:
                tasks.start_soon(self.lose, gpus)
            else:
                tasks.start_soon(self.come_and_go)


@pytest.mark.parametrize("loses", [False, True], ids=["whole", "lost"])
@pytest.mark.parametrize("beside", [False, True], ids=["parks", "beside"])
async def test_no_message_is_lost_whatever_happens(folder: Path, beside: bool, loses: bool) -> None:
    """The seed is printed; the times are those of the machine."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    with plug(loads_while_running=beside, memcheck=False, deadline_s=20.0) as gpus:
        async with opened_engine(folder, *PLACES) as engine:
            stress = Stress(engine, random.Random(seed), loses)
            await stress.run(gpus)
            for kernel_id in KERNELS:
                expected = expected_state(stress.values[kernel_id])
                assert (await state_of(engine.kernel(kernel_id)))[:3] == expected
            await events_of(engine, "engine.opened.v1")
            assert replay_records(engine._core.journal.records()).difference is None
