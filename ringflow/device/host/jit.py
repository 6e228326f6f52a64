"""LLVM IR text to native code, through an object cache on disk.

- The cache's key holds everything that decides the code: the text, LLVM's version, the CPU and
  its features, the options. Entries carry a digest; a damaged one is discarded.
- Native code lives as long as its ``NativeCode`` object.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

_DIGEST_BYTES = 32


@functools.cache
def _initialise() -> None:
    llvm.set_option("", "-disable-lsr")  # it takes a sixth of the time and gains nothing here
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@functools.cache
def cpu() -> tuple[str, str]:
    """Return the host CPU's name and its features as LLVM writes them."""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def target_machine(*, level: int = 2) -> Any:
    """Return a target machine for the host CPU; ``level`` 0 generates code fastest."""
    _initialise()
    name, features = cpu()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=name,
        features=features,
        opt=2 if level else 0,
        reloc="pic",
        codemodel="jitdefault",
        jit=True,
    )


@functools.cache
def _translator() -> str:
    """Return a digest of the translator's own source: other code, other results."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def toolchain() -> str:
    """Return what the native code depends on besides its source."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return "\0".join((_translator(), version, llvm.get_default_triple(), *cpu()))


def compile_ir(text: str, *, level: int = 2) -> bytes:
    """Optimise LLVM IR for the host CPU and return an object file.

    Args:
        level: 2 optimises more; kernels gain nothing over 1, which takes a quarter less time; 0
            is for code that is wanted now and soon replaced.
    Raises:
        RuntimeError: the IR is not well formed; a fault of the translator.
    """
    machine = target_machine(level=level)
    module = llvm.parse_assembly(text)
    module.triple = llvm.get_default_triple()
    module.data_layout = str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = True
    options.slp_vectorization = False
    options.loop_unrolling = True
    options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


class ObjectCache:
    """Entries by key in a folder; safe for several processes at once.

    Those that were not used for the longest time are evicted past either bound.
    """

    def __init__(self, folder: Path, *, entries_max: int = 512, bytes_max: int = 256 << 20) -> None:
        self.folder = folder
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.hits = 0
        self.misses = 0

    def key(self, *pieces: str) -> str:
        """Return the key of something made from ``pieces`` by this toolchain on this CPU."""
        digest = hashlib.sha256()
        for piece in (toolchain(), *pieces):
            data = piece.encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()

    def get(self, key: str) -> bytes | None:
        """Return an entry; a damaged one is deleted and counts as absent."""
        path = self.folder / key
        try:
            stored = path.read_bytes()
        except OSError:
            self.misses += 1
            return None
        digest, data = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            with contextlib.suppress(OSError):
                path.unlink()
            self.misses += 1
            return None
        self.hits += 1
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        """Store an entry in one step; a folder that cannot be written to is no error."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.folder)
        except OSError:
            return
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(name, self.folder / key)
            self._evict()
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)

    def _evict(self) -> None:
        """Delete what was not used for longest, and what a killed process left, past a bound."""
        entries = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another process evicts too
                    status = path.stat()
                    entries.append((status.st_mtime_ns, status.st_size, path))
        left_bytes = self.bytes_max
        for place, (_, size_bytes, path) in enumerate(sorted(entries, reverse=True)):
            left_bytes -= size_bytes
            if place >= self.entries_max or left_bytes < 0:
                path.unlink(missing_ok=True)


class NativeCode:
    """A loaded object file."""

    def __init__(self, data: bytes) -> None:
        _initialise()
        empty = llvm.parse_assembly("")
        empty.triple = llvm.get_default_triple()
        self._engine = llvm.create_mcjit_compiler(empty, target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        self._engine.finalize_object()

    def function(self, name: str) -> int:
        """Return a function's address, 0 if there is none."""
        return int(self._engine.get_function_address(name))

    def variable(self, name: str) -> int:
        """Return a global variable's address, 0 if there is none."""
        return int(self._engine.get_global_value_address(name))

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Write addresses into global variables of pointer size."""
        for name, address in addresses.items():
            place = self.variable(name)
            assert place, name
            ctypes.c_uint64.from_address(place).value = address
