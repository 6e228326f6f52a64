"""Where a cubin comes from: the source of each one that NVRTC makes in the tests, by its digest.

The stand-in never looks at NVRTC's code: it compiles the same source with clang, whose PTX the host
device's translator may have (the CUDA EULA, 1.2). So every cubin compiled in a test notes its
source, and one from a cache that has no note is compiled again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from ringflow.device.compiler import nvrtc
from ringflow.device.compiler.api import CompiledCode, CompileTarget, compile_source
from ringflow.device.compiler.cache import CompileCache, cache_folder
from ringflow.device.compiler.entries import cubin_kernels
from ringflow.device.compiler.state import split_state

KEPT_S = 14 * 86400.0
_NO_BITS = 8


@attrs.frozen
class Origin:
    """What a cubin was compiled from."""

    source: str
    headers: Mapping[str, str]
    name: str
    float_mode: Literal["reproducible", "fast"]
    architecture: str


def _folder() -> Path:
    return cache_folder() / "standin" / "origins"


def digest_of(code: bytes) -> str:
    """Return the digest of a cubin, without what the library keeps behind it."""
    (sections_at,) = struct.unpack_from("<Q", code, 40)
    entry_bytes, count = struct.unpack_from("<HH", code, 58)
    ends = [sections_at + entry_bytes * count]
    (programs_at,) = struct.unpack_from("<Q", code, 32)
    program_bytes, program_count = struct.unpack_from("<HH", code, 54)
    ends.append(programs_at + program_bytes * program_count)
    for at in range(sections_at, sections_at + count * entry_bytes, entry_bytes):
        kind, offset, size = struct.unpack_from("<4xI16xQQ", code, at)
        ends.append(offset + size if kind != _NO_BITS else 0)
    return hashlib.sha256(code[: max(ends)]).hexdigest()


def _path(digest: str) -> Path:
    return _folder() / f"{digest}.json"


def note(cubin: bytes, origin: Origin) -> None:
    """Keep a cubin's origin for this process and its children."""
    _folder().mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=_folder())
    with os.fdopen(handle, "w") as file:
        json.dump(attrs.asdict(origin), file)
    Path(temporary).rename(_path(digest_of(cubin)))


def find(cubin: bytes) -> Origin | None:
    """Return what a cubin was compiled from, ``None`` if nobody noted it."""
    path = _path(digest_of(cubin))
    try:
        found = Origin(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def forget_old() -> None:
    """Remove the notes that no run has used for long."""
    with contextlib.suppress(FileNotFoundError):
        for path in _folder().iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()


@functools.cache
def watch_compiler() -> None:
    """From here on each cubin that is compiled, or comes from a cache, has a noted origin."""
    forget_old()
    compile_to_cubin, get = nvrtc.compile_to_cubin, CompileCache.get

    @functools.wraps(compile_to_cubin)
    def noted(source: str, *, architecture: str, **options: Any) -> tuple[bytes, str]:
        cubin, log = compile_to_cubin(source, architecture=architecture, **options)
        headers = dict(options.get("headers") or {})
        name, mode = options.get("name", "kernel.cu"), options.get("float_mode", "reproducible")
        note(cubin, Origin(source, headers, name, mode, architecture))
        return cubin, log

    @functools.wraps(get)
    def known(self: CompileCache, key: str) -> tuple[bytes, str] | None:
        kept = get(self, key)
        if kept and kept[0].startswith(b"\x7fELF") and find(split_state(kept[0])[0]) is None:
            return None
        return kept

    nvrtc.compile_to_cubin = noted
    CompileCache.get = known  # type: ignore[method-assign]


def host_code(cubin: bytes, origin: Origin, *, memcheck: bool) -> CompiledCode:
    """Return clang's PTX of the source that a cubin was compiled from."""
    return compile_source(
        origin.source,
        entry_point=cubin_kernels(cubin)[0],
        target=CompileTarget("host", line_info=memcheck),
        headers=origin.headers,
        float_mode=origin.float_mode,
        name=origin.name,
        cache=CompileCache(cache_folder() / "standin" / "ptx"),
    )
