"""Copies between programs' memory and a GPU's, through pinned buffers.

- Two buffers for each way: while the one is filled or emptied, the GPU copies the other.
- Only copies by DMA: none of it needs an SM, so it works beside grids that fill the GPU.
- Every wait has a deadline. A buffer whose copy has not ended is not touched before it
  has, whatever had failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Any, Final, final

from ringflow.device.cuda.context import CudaContext
from ringflow.files import Buffer

PIECE_BYTES: Final = 4 << 20
ZERO_BYTES: Final = 1 << 20
ZEROED_A_WAIT: Final = 64
COPY_DEADLINE_S: Final = 30.0
"""For one piece; a PCIe link of the slowest kind needs a hundredth of a second."""
STAGING_BYTES: Final = 4 * PIECE_BYTES + ZERO_BYTES
"""Pinned memory that staging needs."""


class _Lane:
    """One way: a stream, two pinned buffers, and an event for each that says it is free."""

    def __init__(self, context: CudaContext, buffers: tuple[int, int]) -> None:
        self.lock = threading.Lock()
        self.context = context
        self.buffers = buffers
        self.stream = context.make_stream()
        self.events = [context.make_event(), context.make_event()]
        self._is_left = False  # by a user who failed, perhaps between a copy and its event

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Have the way for oneself in the block, with the context current."""
        with self.lock, self.context.current():
            if self._is_left:
                for which in (0, 1):
                    self.record(which)
            self._is_left = True
            yield
            self._is_left = False

    def record(self, which: int) -> None:
        self.context.call("cuEventRecord", self.events[which], self.stream)

    def wait(self, which: int, what: str) -> None:
        self.context.await_event(self.events[which], COPY_DEADLINE_S, what=what)


@final
class Staging:
    """A device's copies in and out. Calls of one way wait for each other."""

    def __init__(self, context: CudaContext, pinned: int) -> None:
        """Make streams and events, which live as long as the context; ``current`` is needed.

        Args:
            pinned: address of ``STAGING_BYTES`` of pinned memory.
        """
        self._context = context
        buffers = [pinned + index * PIECE_BYTES for index in range(4)]
        self._zeros = pinned + 4 * PIECE_BYTES
        ctypes.memset(self._zeros, 0, ZERO_BYTES)
        self._in = _Lane(context, (buffers[0], buffers[1]))
        self._out = _Lane(context, (buffers[2], buffers[3]))

    @property
    def streams(self) -> tuple[Any, Any]:
        """The one that copies in and the one that copies out."""
        return self._in.stream, self._out.stream

    def copy_in(self, address: int, data: Buffer) -> None:
        """Copy bytes to device memory; raises ``DeviceError``."""
        import numpy as np

        source = np.frombuffer(data, np.uint8)
        lane = self._in
        with lane.taken():
            for number, start in enumerate(range(0, len(source), PIECE_BYTES)):
                which = number % 2
                size_bytes = min(PIECE_BYTES, len(source) - start)
                lane.wait(which, "cuMemcpyHtoDAsync")
                ctypes.memmove(lane.buffers[which], source.ctypes.data + start, size_bytes)
                self._context.call(
                    "cuMemcpyHtoDAsync",
                    address + start,
                    lane.buffers[which],
                    size_bytes,
                    lane.stream,
                )
                lane.record(which)
            lane.wait(0, "cuMemcpyHtoDAsync")
            lane.wait(1, "cuMemcpyHtoDAsync")

    def copy_out(
        self, address: int, size_bytes: int, *, into: memoryview | None = None
    ) -> memoryview:
        """Return a copy of device memory: uint8[size_bytes]; raises ``DeviceError``.

        Args:
            into: where the copy goes; new memory by default.
        """
        import numpy as np

        target = np.empty(size_bytes, np.uint8) if into is None else np.frombuffer(into, np.uint8)
        lane = self._out
        starts = range(0, size_bytes, PIECE_BYTES)

        def begin(number: int) -> None:
            start = starts[number]
            self._context.call(
                "cuMemcpyDtoHAsync",
                lane.buffers[number % 2],
                address + start,
                min(PIECE_BYTES, size_bytes - start),
                lane.stream,
            )
            lane.record(number % 2)

        with lane.taken():
            for which in (0, 1):
                lane.wait(which, "cuMemcpyDtoHAsync")  # of a copy that was given up
            for number in range(min(2, len(starts))):
                begin(number)
            for number, start in enumerate(starts):
                which = number % 2
                lane.wait(which, "cuMemcpyDtoHAsync")
                piece_bytes = min(PIECE_BYTES, size_bytes - start)
                ctypes.memmove(target.ctypes.data + start, lane.buffers[which], piece_bytes)
                if number + 2 < len(starts):
                    begin(number + 2)
        return target.data

    def zero(self, address: int, size_bytes: int) -> None:
        """Zero device memory by copies, since a memset may need an SM; raises ``DeviceError``."""
        lane = self._in
        with lane.taken():
            for number, start in enumerate(range(0, size_bytes, ZERO_BYTES)):
                if number % ZEROED_A_WAIT == 0:
                    lane.wait(1, "cuMemcpyHtoDAsync")
                self._context.call(
                    "cuMemcpyHtoDAsync",
                    address + start,
                    self._zeros,
                    min(ZERO_BYTES, size_bytes - start),
                    lane.stream,
                )
                if number % ZEROED_A_WAIT == ZEROED_A_WAIT - 1:
                    lane.record(1)
            lane.record(1)
            lane.wait(1, "cuMemcpyHtoDAsync")
