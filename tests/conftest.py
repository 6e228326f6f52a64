"""Fixtures for all tests: every async test runs under asyncio and under trio."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")  # how long an example takes says how loaded the machine is
_OF_GPUS = ("gpu", "multigpu")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the stand-in in the driver's place, before anything looks for that.

    It shows no device until a test plugs some in (tests/cuda/standin, a test double). Only runs of
    nothing but tests for real GPUs (``-m gpu``) go without it.
    """
    others = [item for item in session.items if not any(map(item.get_closest_marker, _OF_GPUS))]
    if sys.platform == "linux" and others:
        from tests.cuda.standin import install

        install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what tries other libraries (``library``) where those are not installed."""
    missing = [
        item
        for item in items
        if any(find_spec(mark.args[0]) is None for mark in item.iter_markers("library"))
    ]
    if missing:
        config.hook.pytest_deselected(items=missing)
        items[:] = [item for item in items if item not in missing]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of long tests."""
    soak = parser.getgroup("soak", "processes killed from outside (tests/recovery/test_soak.py)")
    soak.addoption("--soak-kills", type=int, default=6, help="how many workers are killed")
    soak.addoption("--soak-seed", type=int, default=None, help="repeats the draws of a run")
    swarm = parser.getgroup("swarm", "random simulated scenarios (tests/swarm/test_swarm.py)")
    swarm.addoption("--swarm-runs", type=int, default=0, help="how many plans are run")
    swarm.addoption("--swarm-seed", type=int, default=0, help="of the first plan")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The backend of an async test; ``pytestmark = pytest.mark.anyio`` asks for it."""
    backend: str = request.param
    return backend


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that does not exist yet, for an engine or a journal."""
    return tmp_path / "state"
