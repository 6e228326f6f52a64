"""Can this driver load code while a kernel runs? Asked in a child process, with a deadline.

- On some drivers a load waits for every kernel of its context, and holds the context's lock while
  it waits: what asks would hang with it. So a child asks, and one that hangs is killed: that is
  the answer "no", as is a load that returns only after the kernel has ended. The kernel fills the
  GPU, and the code has all that may make a load wait.
- The answer is kept by driver and GPU. A child that failed says nothing: "no" for now, not kept.
- ``RINGFLOW_LOADS_WHILE_RUNNING`` (``yes`` or ``no``) answers in its place.

``python -m ringflow.device.cuda.loading GPU-UUID`` is the child; it prints its answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from ringflow.device.compiler.api import CompiledCode, CompileTarget, compile_source
from ringflow.device.compiler.cache import CompileCache, cache_folder, write_whole
from ringflow.device.cuda import driver
from ringflow.device.cuda.asking import command_of, run_child
from ringflow.device.cuda.code import CudaCode, load_module
from ringflow.device.cuda.context import CudaContext, ordinal_of, uuid_of
from ringflow.errors import DeviceError

OVERRIDE: Final = "RINGFLOW_LOADS_WHILE_RUNNING"
DEADLINE_S: Final = 30.0
SPIN_S: Final = 2.0
"""How long the child's kernel runs unless it is told to stop: a load that waits waits this long."""

_RULES: Final = "rules 2"  # raised with the trial: answers of an easier one are asked for anew
_STARTED_S: Final = 10.0
_YES: Final = "loads while running"
_NO: Final = "waits for kernels"
_KERNEL_DRIVER: Final = Path("/proc/driver/nvidia/version")
_CHILD: Final = command_of("ringflow.device.cuda.loading")
_OVERRIDES: Final = {"yes": True, "no": False}

SPINNER: Final = """
__device__ unsigned blocks;
extern "C" __global__ void spin(volatile unsigned* words, unsigned long long limit_ns) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    if (atomicAdd(&blocks, 1) == gridDim.x - 1) words[0] = 1;
    do {
        __nanosleep(1000);
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (!words[1] && now - start < limit_ns);
}
"""
LOADED: Final = """
extern "C" __device__ void* malloc(size_t);
extern "C" __device__ void free(void*);
constexpr unsigned COUNT = 1 << 18;
__device__ unsigned long long zeroed[COUNT], initialised[COUNT] = {1};
extern "C" __global__ void loaded(unsigned long long* word) {
    unsigned long long x = *word;
    if (x == 1) printf("%llu\\n", x);
    auto own = static_cast<unsigned long long*>(malloc(x));
    if (own) *own = x;
    #pragma unroll
    for (unsigned i = 0; i < 32; ++i) zeroed[x % COUNT] += x = x * (2 * i + 1) + initialised[i];
    free(own);
    *word = x;
}
"""
"""All that may make a load wait: variables, zeroed and initialised, printing, a heap, and code that
is not small."""


@attrs.frozen
class Loading:
    """Whether code can be loaded while kernels of the same context run.

    Attributes:
        reason: how it is known, in a sentence without its full stop.
    """

    works: bool
    reason: str


def loads_while_running(
    ordinal: int,
    *,
    deadline_s: float = DEADLINE_S,
    child: Sequence[str] = _CHILD,
    folder: Path | None = None,
) -> Loading:
    """Return the answer for a GPU: given, kept, or asked for now (seconds, once a driver).

    Makes no context in this process. Call it in a worker thread.

    Args:
        child: the command that asks; the GPU's UUID is added to it.
        folder: where answers are kept; one in the user's cache folder by default.
    Raises:
        DeviceError: the driver doesn't start, or has no such GPU.
    """
    given = os.environ.get(OVERRIDE, "").lower()
    if given in _OVERRIDES:
        return Loading(_OVERRIDES[given], f"{OVERRIDE} says so")
    version, uuid = driver.start(), uuid_of(ordinal)
    kept = _path(folder or cache_folder() / "loading", version, uuid)
    answer = _read(kept)
    if answer is None:
        answer, known = _asked((*child, uuid), deadline_s)
        if known:
            _write(kept, answer)
    return answer


def _asked(command: Sequence[str], deadline_s: float) -> tuple[Loading, bool]:
    """Run the child; return the answer, and whether it is known rather than assumed."""
    try:
        ended = run_child(command, deadline_s)
    except subprocess.TimeoutExpired:
        return Loading(False, f"a trial hung, and was ended after {deadline_s:g} s"), True
    except OSError as error:
        return Loading(False, f"a trial could not be started: {error}"), False
    said = ended.stdout.strip().splitlines()[-1:]
    if ended.returncode == 0 and said == [_YES]:
        return Loading(True, "a trial did so"), True
    if ended.returncode == 0 and said == [_NO]:
        return Loading(False, "in a trial the load waited for the kernel's end"), True
    last = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
    return Loading(False, f"a trial failed: {last}"), False


# Answers kept


def _path(folder: Path, version: tuple[int, int], uuid: str) -> Path:
    """Return the file of a GPU's answer; another driver, or its update, has another one."""
    try:
        text = _KERNEL_DRIVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    asked = f"{_RULES}\n{version[0]}.{version[1]}\n{text}\n{uuid}"
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return folder / f"{digest[:32]}.json"


def _read(path: Path) -> Loading | None:
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and isinstance(kept.get("works"), bool):
            return Loading(kept["works"], str(kept.get("reason", "")))
    return None


def _write(path: Path, answer: Loading) -> None:
    """Keep an answer; where nothing can be kept, it is asked for again."""
    with contextlib.suppress(OSError):
        write_whole(path, json.dumps(attrs.asdict(answer)).encode())


# The child


def main(arguments: Sequence[str]) -> int:
    """Try it on one GPU and print the answer; return the process's exit status."""
    if len(arguments) != 1:
        print("usage: python -m ringflow.device.cuda.loading GPU-UUID", file=sys.stderr)
        return 2
    try:
        works = try_loading(ordinal_of(f"cuda:{arguments[0]}"))
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    print(_YES if works else _NO, flush=True)
    return 0


def try_loading(ordinal: int, *, spin_s: float = SPIN_S) -> bool:
    """Load code while a kernel spins; return whether the load ended before the kernel.

    It may hang, with the context's lock: for a process of its own.

    Raises:
        DeviceError: the trial could not be made.
    """
    context = CudaContext(ordinal)
    target, cache = CompileTarget(context.attributes.architecture), CompileCache.default()
    spinner, loaded = (
        compile_source(source, entry_point=name, target=target, cache=cache)
        for name, source in (("spin", SPINNER), ("loaded", LOADED))
    )
    try:
        with context.current():
            return _tried(context, spinner, loaded, spin_s)
    finally:
        context.close()


def _tried(
    context: CudaContext, spinner: CompiledCode, loaded: CompiledCode, spin_s: float
) -> bool:
    with contextlib.ExitStack() as taken:

        def load(code: CompiledCode) -> CudaCode:
            made = load_module(context, code, unload=unload)
            unload(made.module)
            return made

        def unload(module: Any) -> None:
            taken.callback(context.call, "cuModuleUnload", module)

        kernel = load(spinner).kernel("spin")
        fill = kernel.occupancy(context, 1, 0) * context.attributes.sm_count
        flags = driver.bindings()
        words = context.call(
            "cuMemHostAlloc", 8, flags.CU_MEMHOSTALLOC_DEVICEMAP | flags.CU_MEMHOSTALLOC_PORTABLE
        )
        taken.callback(context.call, "cuMemFreeHost", words)
        started, stop = (ctypes.c_uint32.from_address(int(words) + at) for at in (0, 4))
        started.value = stop.value = 0
        address = int(context.call("cuMemHostGetDevicePointer", words, 0))
        stream, ended = context.make_stream(), context.make_event()
        taken.callback(context.drop_event, ended)
        parameters = ((address, int(spin_s * 1e9)), (ctypes.c_void_p, ctypes.c_uint64))
        context.call(
            "cuLaunchKernel", kernel.function, fill, *(1, 1, 1, 1, 1, 0), stream, parameters, 0
        )
        context.call("cuEventRecord", ended, stream)
        try:
            _await_start(started)
            load(loaded)
            return not context.ask("cuEventQuery", ended)
        finally:
            stop.value = 1
            context.await_event(ended, _STARTED_S, what="a trial's kernel")


def _await_start(started: ctypes.c_uint32) -> None:
    """Wait until the spinner says that it runs; raises ``DeviceError`` where it never does."""
    deadline_s = time.monotonic() + _STARTED_S
    while not started.value:
        if time.monotonic() > deadline_s:
            raise DeviceError(
                f"a trial's kernel did not start within {_STARTED_S:g} s; look at what else runs "
                "on the GPU",
                call="cuLaunchKernel",
                code="timeout",
            )
        time.sleep(1e-4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
