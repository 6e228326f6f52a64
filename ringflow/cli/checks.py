"""The checks of ``ringflow doctor``: each looks at one thing and never raises.

- A check that finds something missing says what to do.
- What is needed only for GPUs is marked so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from ringflow.cli.story import size_text
from ringflow.errors import RingflowError
from ringflow.files import NETWORK_TYPES, SystemFiles, file_system_type
from ringflow.journal.api import JournalLimits

if TYPE_CHECKING:
    from ringflow.device.cuda.probe import GpuFacts

PYTHON_MIN: Final = (3, 11)
_FUTEX_WAKE_PRIVATE: Final = 1 | 128
_SYNCS: Final = 15
_SYNC_BUDGET_S: Final = 1.0


@attrs.frozen(kw_only=True)
class Check:
    """One line of the report.

    Attributes:
        detail: what was found.
        advice: what to do where something is missing.
        is_needed: without it nothing works; else it is for GPUs only.
    """

    name: str
    is_ok: bool
    detail: str
    advice: str = ""
    is_needed: bool = True

    @property
    def verdict(self) -> str:
        return "ok" if self.is_ok else "missing"

    @property
    def text(self) -> str:
        if self.is_ok:
            return self.detail
        parts = (self.detail, self.advice, "" if self.is_needed else "only GPUs need it")
        return "; ".join(part for part in parts if part)


def all_checks(
    version: tuple[int | str, ...], machine: tuple[str, str], folder: Path | None
) -> list[Check]:
    """Make every check.

    Args:
        version: of Python, as ``sys.version_info``.
        machine: the system as ``sys.platform``, and the CPU's architecture.
        folder: for an engine; no check of it if None.
    """
    found: list[Check] = []
    for name, look in (
        ("Python", lambda: python(version)),
        ("platform", lambda: system(*machine)),
        ("futex", lambda: futex(machine[1])),
        ("eventfd", eventfd),
        ("clang", clang),
        ("cache", cache),
        ("NVRTC", nvrtc),
        ("driver", gpus),
        ("folder", lambda: [] if folder is None else place(folder)),
    ):
        found += _looked(name, look)
    return found


def _looked(name: str, look: Callable[[], Check | list[Check]]) -> list[Check]:
    """Return what a check found; one that fails is a finding too."""
    try:
        checks = look()
    except Exception as error:
        needed = name not in ("NVRTC", "driver")
        detail = f"the check failed: {error!r}"
        return [Check(name=name, is_ok=False, detail=detail, is_needed=needed)]
    return checks if isinstance(checks, list) else [checks]


def python(version: tuple[int | str, ...]) -> Check:
    return Check(
        name="Python",
        is_ok=version[:2] >= PYTHON_MIN,
        detail=".".join(map(str, version[:3])),
        advice="install Python 3.11 or newer",
    )


def system(platform: str, architecture: str) -> Check:
    from ringflow.device.native import FUTEX_CALLS

    return Check(
        name="platform",
        is_ok=platform == "linux" and architecture in FUTEX_CALLS,
        detail=f"{platform} on {architecture}",
        advice=f"kernels run on Linux on {' or '.join(FUTEX_CALLS)}",
    )


def futex(architecture: str) -> Check:
    """Wake a word that nobody waits for: the call must be allowed."""
    from ringflow.device.native import FUTEX_CALLS

    name, advice = "futex", "allow the system call futex in this container"
    if architecture not in FUTEX_CALLS:
        return Check(name=name, is_ok=False, detail=f"unknown on {architecture}", advice=advice)
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    word = ctypes.c_uint32(0)
    woken = call(FUTEX_CALLS[architecture], ctypes.byref(word), _FUTEX_WAKE_PRIVATE, 1, 0, 0, 0)
    detail = "works" if woken == 0 else os.strerror(ctypes.get_errno())
    return Check(name=name, is_ok=woken == 0, detail=detail, advice=advice)


def eventfd() -> Check:
    name, advice = "eventfd", "use Linux, and allow the system call eventfd2 in this container"
    try:
        os.close(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    except (AttributeError, OSError) as error:
        return Check(name=name, is_ok=False, detail=str(error), advice=advice)
    return Check(name=name, is_ok=True, detail="works")


def clang() -> Check:
    from ringflow.device.compiler.clang import find_clang

    try:
        program = find_clang()
    except RingflowError as error:
        return Check(name="clang", is_ok=False, detail=str(error))
    return Check(name="clang", is_ok=True, detail=f"{program.version}, {program.command[0]}")


def cache() -> Check:
    from ringflow.device.compiler.cache import cache_folder

    name, advice = "cache", "set RINGFLOW_CACHE_DIR to a folder that this user can write"
    try:
        folder = cache_folder()
        with _scratch_file(folder) as path:
            path.write_bytes(b"x")
    except OSError as error:
        return Check(name=name, is_ok=False, detail=f"can't be written: {error}", advice=advice)
    chosen = os.environ.get("RINGFLOW_CACHE_DIR")
    if chosen and folder != Path(chosen).absolute():
        detail = f"{chosen} can't be written, {folder} is used"
        return Check(name=name, is_ok=False, detail=detail, advice=advice)
    return Check(name=name, is_ok=True, detail=f"{folder} can be written")


def nvrtc() -> Check:
    from ringflow.device.compiler.nvrtc import nvrtc_version

    try:
        return Check(name="NVRTC", is_ok=True, detail=nvrtc_version(), is_needed=False)
    except RingflowError as error:
        return Check(name="NVRTC", is_ok=False, detail=str(error), is_needed=False)


def gpus() -> list[Check]:
    """Ask the driver, which has a deadline: is it fit, and each of its GPUs."""
    from ringflow.device.cuda.probe import probe

    facts = probe()
    found = [
        Check(
            name="driver",
            is_ok=not facts.missing,
            detail=facts.missing or f"for CUDA {facts.driver}",
            advice=facts.advice,
            is_needed=False,
        )
    ]
    found.extend(_gpu(one) for one in facts.gpus)
    if facts.gpus:
        found.append(queues())
    for link in facts.links:
        told = "; ".join(one for one in (link.path, link.distance, link.unknown) if one)
        name = "-".join(link.between)
        found.append(Check(name=name, is_ok=True, detail=told, is_needed=False))
    return found


def _gpu(gpu: GpuFacts) -> Check:
    told = f"{gpu.model}, {size_text(gpu.memory_bytes)}, {gpu.architecture}, {gpu.uuid}"
    return Check(
        name=gpu.name,
        is_ok=not gpu.refusal,
        detail=f"{told}: {gpu.refusal}" if gpu.refusal else told,
        is_needed=False,
    )


def queues() -> Check:
    """Tell how many kernels a GPU can run at a time: each has a work queue to itself."""
    from ringflow.device.cuda import environment
    from ringflow.device.cuda.ledger import COPY_QUEUES

    name, most = environment.QUEUES, environment.QUEUES_MAX
    count = environment.queue_count() - COPY_QUEUES
    detail = f"{count} kernels at a time on a GPU"
    if name not in os.environ:
        detail = (
            f"{most - COPY_QUEUES} kernels at a time on a GPU, {count} in programs that start CUDA "
            f"before they open one; set {name}={most} for those"
        )
    reason, _ = environment.refusal()
    return Check(name="work queues", is_ok=not reason, detail=reason or detail, is_needed=False)


def place(folder: Path) -> list[Check]:
    """Check where an engine's folder is, or would be made: its nearest folder that is there."""
    there = next((one for one in (folder, *folder.absolute().parents) if one.is_dir()), Path("/"))
    kind = file_system_type(there)
    if folder.exists() and not folder.is_dir():
        detail = f"{folder} is no folder"
        return [Check(name="folder", is_ok=False, detail=detail, advice="name another")]
    where = there if there == folder else f"{folder} is not there yet; {there}"
    local = Check(
        name="folder",
        is_ok=kind not in NETWORK_TYPES,
        detail=f"{where} is on {kind or 'a file system of unknown type'}",
        advice="its locks and syncs can't be relied on; use a local disk",
    )
    try:
        free_bytes = SystemFiles().free_bytes(there)
    except OSError as error:
        return [local, Check(name="space", is_ok=False, detail=str(error))]
    reserve_bytes = JournalLimits().reserve_bytes
    space = Check(
        name="space",
        is_ok=free_bytes > reserve_bytes,
        detail=f"{size_text(free_bytes)} free",
        advice=f"with {size_text(reserve_bytes)} or less an engine refuses messages; free more",
    )
    return [local, space, sync(there)]


def sync(folder: Path) -> Check:
    """Time small durable writes: a durable message waits for about two of them."""
    advice = "give this user a folder that it can write"
    try:
        times_ms = _sync_times_ms(folder)
    except OSError as error:
        return Check(name="fdatasync", is_ok=False, detail=str(error), advice=advice)
    detail = f"{statistics.median(times_ms):.2f} ms, the median of {len(times_ms)}"
    return Check(
        name="fdatasync", is_ok=True, detail=f"{detail}; the longest {max(times_ms):.2f} ms"
    )


def _sync_times_ms(folder: Path) -> list[float]:
    times_ms: list[float] = []
    with _scratch_file(folder) as path:
        file = SystemFiles().create(path)
        try:
            began_s = time.monotonic()
            while len(times_ms) < _SYNCS and time.monotonic() - began_s < _SYNC_BUDGET_S:
                file.write(bytes(4096))
                before_s = time.perf_counter()
                file.datasync()
                times_ms.append((time.perf_counter() - before_s) * 1e3)
        finally:
            file.close()
    return times_ms


@contextlib.contextmanager
def _scratch_file(folder: Path) -> Iterator[Path]:
    """Yield a path in a folder that nobody else uses, and delete it afterwards."""
    path = folder / f".ringflow-doctor-{os.getpid()}-{time.time_ns()}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
