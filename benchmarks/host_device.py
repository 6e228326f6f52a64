"""The host device's speed and memory: kernels, barriers, messages, parked kernels, compiling.

Run it on an idle machine. There is one worker; peers (numpy, and g++ -O3 where it is installed)
run interleaved with ours, several times; medians count, and a ratio is the median of the rounds'
ratios. numpy is the faster of two forms in each round: the expression as one writes it, and the
one with ``out=``.

What limits the figures, and what was tried:

- The stencils give a thread a column and several rows at once, as one does on a GPU. A cell for
  each thread runs at half to two thirds of that: the loop over a block's threads is entered for
  each block, and the index is computed for each cell. Tiles have 16 rows: with 4 the two barriers
  of a tile cost as much as its cells.
- The divergent barrier is that of a block whose halves wait at two places. Where every thread waits
  at another place than its neighbour, each is a call of its own, 15 ns: the row after it is that
  case. To leave out the divisions by which a call finds its row gained nothing.
- The round trip to a spinning worker is timed with the native functions, since each call of
  Python's ctypes costs 1 us; the row after it says what Python's objects add.
- A parked worker has to be woken by the system: on a virtual machine that takes 50 to 130 us, and
  several milliseconds when other processes keep the cores.
- The memory of a parked kernel is its block's context (spills of 32 threads), small pieces in pages
  that it shares, and one page for its workspace; with pages of its own for each it was 34 MB.
- "cold" is from source to running code; optimised code replaces it later, in the background.
"""

from __future__ import annotations

import os
import sys

from benchmarks.host_compute import compute_rows
from benchmarks.host_messages import message_rows
from benchmarks.table import Row, choices, finish

WORKERS = "RINGFLOW_HOST_WORKERS"


def measure(*, quick: bool) -> list[Row]:
    """Return all rows; the pool of workers starts with the first kernel."""
    os.environ[WORKERS] = "1"
    return [*compute_rows(quick=quick), *message_rows(quick=quick)]


if __name__ == "__main__":
    asked = choices(__doc__)
    sys.exit(finish("The host device", measure(quick=asked.quick), asked))
