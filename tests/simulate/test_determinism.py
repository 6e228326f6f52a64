"""One seed, one journal: in any process, hosted by either backend; other seeds, other orders."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pytest

import ringflow
from ringflow.errors import UsageError
from ringflow.simulate.world import World
from tests.simulate.story import eventful_world, state_of

PROGRAM = """
from tests.simulate.test_determinism import digests
for place, digest in digests(7).items():
    print(place, digest)
"""


def digests(seed: int) -> dict[str, str]:
    """Return the SHA-256 of each file that an eventful world leaves."""
    contents = eventful_world(seed).contents()
    return {place: hashlib.sha256(content).hexdigest() for place, content in contents.items()}


def test_one_seed_gives_the_same_bytes_in_every_process() -> None:
    """Journal, checkpoints and objects; hash seeds and addresses differ, and don't matter."""
    root = Path(__file__).parent.parent.parent
    printed = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert "journal/" in printed[0]
    assert printed[0] == printed[1]
    assert printed[0] == "".join(f"{place} {digest}\n" for place, digest in digests(7).items())


@pytest.mark.anyio
async def test_either_backend_hosts_the_same_world() -> None:
    """asyncio or trio only lends a thread."""
    hosted = await anyio.to_thread.run_sync(digests, 7)
    assert hosted == await anyio.to_thread.run_sync(digests, 7)
    with pytest.raises(UsageError, match="worker thread"), World() as world:
        world.settle()
    alone: list[dict[str, str]] = []
    await anyio.to_thread.run_sync(lambda: alone.append(digests(7)))
    assert alone == [hosted]


def order_of(world: World) -> list[str]:
    """Return the streams of the journal's records, in order."""
    return [line.split(b'"stream":"')[1].split(b'"')[0].decode() for line in lines_of(world)]


def lines_of(world: World) -> list[bytes]:
    return [line for line in world.journal().splitlines() if b'"stream":"' in line]


def test_other_seeds_order_what_is_concurrent_otherwise() -> None:
    """Six seeds, six journals in several orders; what the kernels hold is the same."""
    worlds = [eventful_world(seed) for seed in range(6)]
    assert len({world.journal() for world in worlds}) == 6
    assert len({tuple(order_of(world)) for world in worlds}) > 3
    for world in worlds:
        world.open()
    assert len({state_of(world, "first") for world in worlds}) == 1
    assert len({state_of(world, "second") for world in worlds}) == 1
    for world in worlds:
        world.close()
        assert world.unreturned_bytes == {}


def test_a_restart_has_ids_and_an_order_of_its_own() -> None:
    """The second process draws other ids than the first one did."""
    world = eventful_world(3)
    world.open()

    async def save(engine: ringflow.Engine) -> str:
        return (await engine.checkpoint("first")).name

    name = world.run(save)
    world.close()
    assert name.encode() in world.journal()
    assert len(set(world.contents())) == len(world.contents())
