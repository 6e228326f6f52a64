"""What others take for a durable event: `eventsourcing` and DBOS, both on SQLite files.

- They are in the extra ``benchmark``; a peer that is not installed gets no row.
- Each writer is a thread of its own, as these libraries are used.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

WRITERS: Final = 64
Write = Callable[[int], None]


def installed() -> list[str]:
    """Return the names of the peers that can be measured."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


def in_threads(write: Write, rounds: int) -> int:
    """Let every writer write ``rounds`` events; return how many that were."""
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, [rounds] * WRITERS))
    return WRITERS * rounds


@contextmanager
def eventsourcing(folder: Path) -> Iterator[Write]:
    """An application whose writers each save one aggregate's events, one a time."""
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate

    application: Any = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(folder / "eventsourcing.db"),
            "SQLITE_LOCK_TIMEOUT": "60",
        }
    )

    def write(rounds: int) -> None:
        aggregate: Any = Aggregate()
        application.save(aggregate)
        for _ in range(rounds - 1):
            aggregate.trigger_event(Aggregate.Event)
            application.save(aggregate)

    try:
        yield write
    finally:
        application.close()


@contextmanager
def dbos(folder: Path) -> Iterator[Write]:
    """Workflows whose steps are each recorded before the next one begins."""
    from dbos import DBOS

    config: Any = {
        "name": "bench",
        "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
        "log_level": "CRITICAL",
        "run_admin_server": False,
    }
    DBOS(config=config)

    def step(payload: str) -> str:
        return payload

    def flow(rounds: int) -> None:
        for _ in range(rounds):
            recorded_step("AAAAAAAAAAAAAAAAAAAAAA==")

    recorded_step: Callable[[str], str] = DBOS.step()(step)
    recorded_flow: Write = DBOS.workflow()(flow)
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    DBOS.launch()
    try:
        yield recorded_flow
    finally:
        DBOS.destroy()


PEERS: Final = {"eventsourcing": eventsourcing, "dbos": dbos}
