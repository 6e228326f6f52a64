"""``compile_source``: CUDA C++ to code for a device's target, from the cache where it can be.

- The host's code is clang's PTX; a GPU's is NVRTC's cubin. Neither ever goes to the other's
  device, and ``CompiledCode`` refuses to be such a thing.
- Calls are synchronous and may take seconds; async code runs them in worker threads.
- The digest of a compilation covers all that the result depends on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import attrs

from ringflow.device.compiler.cache import CompileCache
from ringflow.device.compiler.entries import cubin_kernels, missing_entry, ptx_kernels
from ringflow.device.compiler.headers import cuda_names_texts, shipped_headers
from ringflow.device.compiler.state import state_of_source, teller_of_state, with_state
from ringflow.errors import CompileError, SpecError

FloatMode = Literal["reproducible", "fast"]

COMPILE_DEADLINE_S: Final = 30.0

_TARGET: Final = re.compile(r"host\Z|sm_\d+[af]?\Z")
_OUTSIDE: Final = re.compile(r'^[ \t]*#[ \t]*\w+[ \t]*[<"](?:/|[^>"\n]*\.\./)', re.M)


def _check_target(instance: object, attribute: object, value: str) -> None:
    if not _TARGET.match(value):
        raise SpecError(f"compile target {value!r} is neither 'host' nor an 'sm_XX'; name one")


@attrs.frozen
class CompileTarget:
    """What code is compiled for: ``"host"``, or an exact CUDA architecture such as ``"sm_90"``.

    Attributes:
        line_info: the code says which line of the source it is from; host only.
    """

    name: str = attrs.field(validator=_check_target)
    line_info: bool = attrs.field(default=False, kw_only=True)

    @property
    def is_host(self) -> bool:
        return self.name == "host"


HOST: Final = CompileTarget("host")


@attrs.frozen(kw_only=True)
class CompiledCode:
    """Code that a device of the target can load.

    Attributes:
        target: the name of the ``CompileTarget``; PTX is the host's form, a cubin a GPU's.
        entry_point: a kernel that the code has.
        source_digest: SHA-256 (hex) of all that the code was made from.
        log: what the compiler said; empty where it said nothing.
        cached: whether the code came from a cache.
    """

    format: Literal["ptx", "cubin"]
    target: str = attrs.field(validator=_check_target)
    code: bytes = attrs.field(repr=False)
    entry_point: str
    source_digest: str
    log: str = ""
    cached: bool = attrs.field(default=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if (self.format == "ptx") != (self.target == "host"):
            raise SpecError(
                f"{self.format} is not for target {self.target!r}: the host loads PTX, "
                "a GPU a cubin; compile the source for that target"
            )


def compile_source(
    source: str,
    *,
    entry_point: str,
    target: CompileTarget,
    headers: Mapping[str, str] | None = None,
    float_mode: FloatMode = "reproducible",
    name: str = "kernel.cu",
    cache: CompileCache | None,
    deadline_s: float = COMPILE_DEADLINE_S,
) -> CompiledCode:
    """Compile CUDA C++ with the target's front end: clang for the host, NVRTC for a GPU.

    Args:
        headers: texts that the source may include by name beside the shipped ones, such as
            ``ringflow_messages.cuh`` (``headers.messages_header``).
        float_mode: ``"fast"`` lets multiplications and additions fuse; equality between devices
            is then given up.
        name: what errors call the source.
        cache: where results are kept, ``None`` to compile in any case.
    Raises:
        CompileError: the source does not compile, or not before the deadline.
        EntryPointError: it has no kernel of this name.
        DeviceError: the front end is not installed.
    """
    headers = dict(headers or {})
    for text_name, text in {name: source, **headers}.items():
        _refuse_outside_includes(text_name, text)
    digest = _digest(source, target, headers, float_mode, name)
    kept = cache.get(digest) if cache else None
    if kept is None:
        code, log = compile_uncached(
            source,
            target=target,
            headers=headers,
            float_mode=float_mode,
            name=name,
            deadline_s=deadline_s,
        )
        if cache:
            cache.put(digest, code, log)
    else:
        code, log = kept
    kernels = ptx_kernels(code.decode()) if target.is_host else cubin_kernels(code)
    if entry_point not in kernels:
        raise missing_entry(entry_point, kernels, name)
    return CompiledCode(
        format="ptx" if target.is_host else "cubin",
        target=target.name,
        code=code,
        entry_point=entry_point,
        source_digest=digest,
        log=log,
        cached=kept is not None,
    )


def code_from_ptx(text: str, *, entry_point: str) -> CompiledCode:
    """Return a user's own PTX as code for the host device; raises ``EntryPointError``.

    Whether a licence lets it run there is for the user to judge.
    """
    kernels = ptx_kernels(text)
    if entry_point not in kernels:
        raise missing_entry(entry_point, kernels, "the PTX")
    return CompiledCode(
        format="ptx",
        target=HOST.name,
        code=text.encode(),
        entry_point=entry_point,
        source_digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def compile_uncached(
    source: str,
    *,
    target: CompileTarget,
    headers: Mapping[str, str],
    float_mode: FloatMode,
    name: str,
    deadline_s: float = COMPILE_DEADLINE_S,
) -> tuple[bytes, str]:
    """Return a source's code for a target and the compiler's log; errors as ``compile_source``."""
    if target.is_host:
        from ringflow.device.compiler.clang import compile_to_ptx

        ptx, log = compile_to_ptx(
            source,
            name=name,
            headers=headers,
            float_mode=float_mode,
            line_info=target.line_info,
            deadline_s=deadline_s,
        )
        return ptx.encode(), log
    from ringflow.device.compiler.nvrtc import compile_to_cubin

    cubin, log = compile_to_cubin(
        source,
        architecture=target.name,
        name=name,
        headers=headers,
        float_mode=float_mode,
        deadline_s=deadline_s,
    )
    state = state_of_source(cubin, source, name=name, headers=headers, deadline_s=deadline_s)
    return with_state(cubin, state), log


def _digest(
    source: str, target: CompileTarget, headers: Mapping[str, str], float_mode: str, name: str
) -> str:
    """Return the SHA-256 (hex) of all that a compilation's result depends on."""
    parts = [target.name, float_mode, name, source]
    if target.is_host:
        from ringflow.device.compiler import clang

        parts += [clang.find_clang().version, *clang.FLAGS, *clang.CONTRACTION.values()]
        parts += cuda_names_texts()
        parts += clang.LINE_INFO if target.line_info else ()
    else:
        from ringflow.device.compiler import nvrtc

        parts += [nvrtc.nvrtc_version(), *nvrtc.FLAGS, *nvrtc.CONTRACTION.values()]
        parts += [teller_of_state()]
    for texts in (shipped_headers(), headers):
        parts += [part for item in sorted(texts.items()) for part in item]
    return _sha256_of(parts)


def _sha256_of(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _refuse_outside_includes(name: str, text: str) -> None:
    """Raise ``CompileError`` for an include by path: the digest does not cover such a file."""
    found = _OUTSIDE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise CompileError(
            "ringflow",
            f"{name}:{line}:1: error: an include by a path outside of the given headers; "
            "hand the file's text over as a header and include it by its name",
        )
