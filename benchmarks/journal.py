"""The journal's speed: writing against a bare file and other libraries, and reading.

Install the extra ``benchmark`` for the other libraries' rows. What is compared takes turns in one
run on one disk; the medians count.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio

from benchmarks import journal_reading
from benchmarks.journal_sending import send
from benchmarks.journal_writing import measure
from benchmarks.table import Row, choices, finish


def main() -> int:
    """Measure under both backends."""
    given = choices("The journal's speed.")
    rows: list[Row] = []
    for backend in ("asyncio", "trio"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            writing = partial(measure, folder, backend, quick=given.quick)
            rows += anyio.run(writing, backend=backend)
            rows += anyio.run(partial(send, folder, backend, quick=given.quick), backend=backend)
    rows += journal_reading.measure(quick=given.quick)
    return finish("Journal", rows, given)


if __name__ == "__main__":
    sys.exit(main())
