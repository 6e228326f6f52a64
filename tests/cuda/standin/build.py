"""Builds the stand-in's ``libcuda.so.1`` (a test double) from its C files, once a content.

The compiler is the system's, else ziglang's, which the tests install: so this never skips.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringflow.device.compiler.cache import cache_folder

SOURCES = Path(__file__).parent / "native"
SONAME = "libcuda.so.1"
FLAGS = ("-shared", "-fPIC", "-std=gnu11", "-O1", "-g", "-fvisibility=hidden", "-pthread")
KEPT_S = 14 * 86400.0
WARNINGS = ("-Wall", "-Wextra", "-Werror")


def compilers() -> list[tuple[str, ...]]:
    """Return the compilers to try, in their order."""
    found = [(path,) for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    return [*found, (sys.executable, "-m", "ziglang", "cc")]


@functools.cache
def library_path() -> Path:
    """Return the built library; several processes may ask at once."""
    digest = hashlib.sha256(repr((FLAGS, WARNINGS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    folder = cache_folder() / "standin" / digest.hexdigest()[:32]
    library = folder / SONAME
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not library.exists():
                _build(library)
                _remove_old(folder.parent)
    return library


def _remove_old(folder: Path) -> None:
    """Remove what was built long ago; a library in use lives on without its name."""
    for old in folder.glob(f"*/{SONAME}"):
        if time.time() - old.stat().st_mtime > KEPT_S:
            shutil.rmtree(old.parent, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(library: Path) -> None:
    logs = []
    for compiler in compilers():
        made = library.with_suffix(f".{os.getpid()}")
        command = [*compiler, *FLAGS, *WARNINGS, f"-Wl,-soname,{SONAME}", "-o", str(made)]
        command += [str(path) for path in sorted(SOURCES.glob("*.c"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            made.rename(library)
            return
        logs.append(f"{' '.join(compiler)}:\n{done.stderr}")
    raise RuntimeError("no compiler builds the stand-in driver:\n" + "\n".join(logs))
