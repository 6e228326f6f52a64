"""The pytest plugin: scenario files as tests, and fixtures for tests of programs that use ringflow.

- Collected are ``*.txt`` below the folders that the setting ``ringflow_scenarios`` names, from the
  root folder on; ``scenarios`` by default.
- What needs the engine is imported when it is used: pytest loads this in every run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ringflow import Engine
    from ringflow.device.api import Device

_SETTING = "ringflow_scenarios"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        _SETTING, "folders with ringflow's scenario files", type="linelist", default=["scenarios"]
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    root = parent.config.rootpath
    folders = [root / name for name in parent.config.getini(_SETTING)]
    if file_path.suffix == ".txt" and any(file_path.is_relative_to(one) for one in folders):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


class ScenarioFile(pytest.File):
    """A scenario file, which is one test."""

    def collect(self) -> Iterable[pytest.Item]:
        return [ScenarioTest.from_parent(self, name="scenario")]


class ScenarioTest(pytest.Item):
    """Runs its file with seed 0."""

    def runtest(self) -> None:
        from ringflow.scenario.running import run_file

        outcome = run_file(self.path)
        if not outcome.passed:
            raise ScenarioDiffersError(outcome.report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        if isinstance(excinfo.value, ScenarioDiffersError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"scenario {self.path.stem}"


class ScenarioDiffersError(Exception):
    """A scenario's outputs are not the expected ones."""


@pytest.fixture
def host_device() -> Iterator[Device]:
    """A device ``host:0`` of its own for a test, closed at its end."""
    from ringflow.device.registry import open_device

    device = open_device("host:0")
    yield device
    device.close()


@pytest.fixture
async def ringflow_engine(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Engine]:
    """An engine with two host devices, in a folder of the test's own."""
    import ringflow

    async with ringflow.open_engine(tmp_path / "state", devices=["host:0", "host:1"]) as engine:
        yield engine


@pytest.fixture
def assert_replays() -> Callable[[Path], None]:
    """A function that takes an engine's folder: its journal's decisions must follow from it."""

    def check(folder: Path) -> None:
        from ringflow.engine.replay import replay_records
        from ringflow.events.registry import default_codec
        from ringflow.journal.reader import read_history

        codec = default_codec()
        base, records = read_history(folder)
        report = replay_records((record.decoded(codec) for record in records), base)
        assert report.difference is None, f"the journal does not replay: {report.difference}"

    return check
