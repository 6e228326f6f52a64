"""The journal's speed: writing against a bare file and other libraries, and verifying.

Install the extra ``benchmark`` for the other libraries' rows. What is compared takes turns in one
run on one disk; the medians count.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import anyio

from benchmarks.journal_writing import measure
from benchmarks.table import Row, at_least, choices, finish
from ringflow.journal.reader import verify


def verifying(folder: Path, backend: str) -> Row:
    """Time the verification of what was written."""
    start = time.perf_counter()
    records = verify(folder).records
    rate = records / (time.perf_counter() - start)
    return at_least(f"records verified ({backend})", rate, "1/s", 50_000)


def main() -> int:
    """Measure under both backends."""
    given = choices("The journal's speed.")
    rows: list[Row] = []
    for backend in ("asyncio", "trio"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            writing = partial(measure, folder, backend, quick=given.quick)
            rows += anyio.run(writing, backend=backend)
            rows.append(verifying(folder, backend))
    return finish("Journal", rows, given)


if __name__ == "__main__":
    sys.exit(main())
