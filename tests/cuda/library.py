"""Another array library in the process: its own memory and stream on a GPU, as CuPy has them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from ringflow.device.cuda import driver
from ringflow.dlpack import DeviceType
from tests.producers import Capsules, CudaArray


class Library:
    """Uses a GPU's primary context, which it shares with ringflow.

    Attributes:
        stream: the handle of its stream.
        first: the address of 1 MiB of its memory.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._device = driver.call("cuDeviceGet", ordinal)
        self._context = driver.call("cuDevicePrimaryCtxRetain", self._device)
        self._memory: list[int] = []
        with self.current():
            self._pinned = driver.call("cuMemHostAlloc", 1 << 20, 0)
            self._stream = driver.call("cuStreamCreate", 1)
        self.stream = int(self._stream)
        self.first = self.make(np.zeros(1 << 18, np.float32))

    @contextmanager
    def current(self) -> Iterator[None]:
        driver.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            driver.give_back("cuCtxPopCurrent")

    def make(self, values: np.ndarray[Any, Any]) -> int:
        """Return the address of memory that holds the values by now."""
        with self.current():
            address = int(driver.call("cuMemAlloc", values.nbytes))
            self._memory.append(address)
            driver.call("cuMemcpyHtoD", address, values.ctypes.data, values.nbytes)
        return address

    def write(self, address: int, values: np.ndarray[Any, Any]) -> None:
        """Begin to write values on the library's stream, once what was begun before has ended."""
        with self.current():
            while not driver.ask("cuStreamQuery", self._stream):
                pass
            ctypes.memmove(int(self._pinned), values.ctypes.data, values.nbytes)
            arguments = (address, int(self._pinned), values.nbytes, self._stream)
            driver.call("cuMemcpyHtoDAsync", *arguments)

    def interface(self, address: int, values: np.ndarray[Any, Any], **more: Any) -> CudaArray:
        """Return an array by ``__cuda_array_interface__``, on the library's stream."""
        return CudaArray(address, values.shape, values.dtype.str, **{"stream": self.stream, **more})

    def capsules(self, address: int, values: np.ndarray[Any, Any]) -> Capsules:
        """Return an array by DLPack; its producer makes the taker's stream wait for its own."""
        return _Waiting(self, address, values)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture a graph in the block, in a thread of its own, in the mode that is PyTorch's own.

        Raises:
            DeviceError: something spoiled it.
        """
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._begin_capture).result()
            try:
                yield
            finally:
                thread.submit(self._end_capture).result()

    def _begin_capture(self) -> None:
        mode = driver.bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
        with self.current():
            driver.call("cuStreamBeginCapture", self._stream, mode)

    def _end_capture(self) -> None:
        with self.current():
            driver.call("cuGraphDestroy", driver.call("cuStreamEndCapture", self._stream))

    def close(self) -> None:
        """Give all back; what is left of a live context the stand-in tells."""
        with self.current():
            for address in self._memory:
                driver.give_back("cuMemFree", address)
            driver.give_back("cuMemFreeHost", self._pinned)
            driver.give_back("cuStreamDestroy", self._stream)
        driver.give_back("cuDevicePrimaryCtxRelease", self._device)


class _Waiting(Capsules):
    def __init__(self, library: Library, address: int, values: np.ndarray[Any, Any]) -> None:
        super().__init__(values, device=(DeviceType.CUDA, library.ordinal), address=address)
        self._library = library

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        """Make the taker's stream wait, as the array API says."""
        if stream is not None and stream > 0:
            with self._library.current():
                event = driver.call("cuEventCreate", 2)
                driver.call("cuEventRecord", event, self._library.stream)
                driver.call("cuStreamWaitEvent", stream, event, 0)
                driver.call("cuEventDestroy", event)
        return super().__dlpack__(stream=stream, **options)
