"""NVRTC as the front end of CUDA devices: CUDA C++ to a cubin for one exact architecture.

- Needs neither a driver nor a GPU. Only this module of the compiler imports cuda-python.
- It gives cubins only, which nothing but an NVIDIA GPU can run: the CUDA EULA (1.2) forbids
  translating NVRTC's output to another platform, so none of its PTX exists to be translated.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

from ringflow.device.compiler.headers import shipped_headers
from ringflow.errors import CompileError, DeviceError

DEADLINE_S: Final = 30.0
NOT_INSTALLED: Final = "not installed"
_OFFSETOF: Final = "((unsigned long long)__INTADDR__(&((type*)0)->member))"
FLAGS: Final = (
    "-std=c++17",
    "--no-source-include",
    f"--define-macro=__builtin_offsetof(type,member)={_OFFSETOF}",  # NVRTC 13.0 has none
)
CONTRACTION: Final[Mapping[str, str]] = {"reproducible": "-fmad=false", "fast": "-fmad=true"}

_ARCHITECTURE: Final = re.compile(r"sm_\d+[af]?\Z")
_POSITION: Final = re.compile(r"^(\S[^\n]*?)\((\d+)\)(: )", re.M)
_Callback: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def nvrtc_version() -> str:
    """Return NVRTC's name and version; raises ``DeviceError`` if it is not installed."""
    major, minor = _call("nvrtcVersion")
    return f"nvrtc {major}.{minor}"


def known_architectures() -> tuple[str, ...]:
    """Return what NVRTC compiles for, such as ``"sm_90"``, oldest first; raises ``DeviceError``."""
    (numbers,) = _call("nvrtcGetSupportedArchs")
    return tuple(f"sm_{number}" for number in numbers)


def compile_to_cubin(
    source: str,
    *,
    architecture: str,
    name: str = "kernel.cu",
    headers: Mapping[str, str] | None = None,
    float_mode: Literal["reproducible", "fast"] = "reproducible",
    deadline_s: float = DEADLINE_S,
) -> tuple[bytes, str]:
    """Compile CUDA C++ to a cubin.

    Args:
        architecture: an exact one, such as ``"sm_90"``.
        headers: texts that the source may include beside the shipped ones, by name.
    Returns:
        The cubin, and the compiler's log (warnings; empty where there are none).
    Raises:
        CompileError: NVRTC refused the source, or did not end in time; its log names
            ``name:line:column``.
        DeviceError: NVRTC is not installed, or does not know the architecture.
    """
    if not _ARCHITECTURE.match(architecture):
        raise DeviceError(
            f"architecture {architecture!r} is not an exact one; name one such as sm_90",
            call="nvrtc",
            code="architecture",
        )
    texts = {**shipped_headers(), **(headers or {})}
    (program,) = _call(
        "nvrtcCreateProgram",
        source.encode(),
        name.encode(),
        len(texts),
        [text.encode() for text in texts.values()],
        [header.encode() for header in texts],
    )
    try:
        return _compile(program, architecture, CONTRACTION[float_mode], deadline_s)
    finally:
        _call("nvrtcDestroyProgram", program)


def _compile(
    program: Any, architecture: str, contraction: str, deadline_s: float
) -> tuple[bytes, str]:
    ends_at_s = time.monotonic() + deadline_s

    def is_late(payload: int | None, reserved: int | None) -> int:
        return int(time.monotonic() > ends_at_s)

    callback = _Callback(is_late)  # lives until the compile has returned
    _call("nvrtcSetFlowCallback", program, ctypes.cast(callback, ctypes.c_void_p).value, 0)
    flags = [f"--gpu-architecture={architecture}", contraction, *FLAGS]
    nvrtc = _nvrtc()
    (result,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    log = _with_columns(_text(program, "nvrtcGetProgramLog"))
    if result == nvrtc.nvrtcResult.NVRTC_ERROR_CANCELLED:
        raise CompileError(
            "nvrtc", f"no result within {deadline_s:g} s, stopped; simplify the source"
        )
    if result == nvrtc.nvrtcResult.NVRTC_ERROR_INVALID_OPTION:
        raise DeviceError(
            f"{nvrtc_version()} cannot compile for {architecture}: {log.strip()}; "
            "install an NVRTC that knows it",
            call="nvrtcCompileProgram",
            code=result.name,
        )
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError("nvrtc", log or result.name)
    return _bytes(program, "nvrtcGetCUBIN"), log


def _with_columns(log: str) -> str:
    """Write ``file(line): `` as ``file:line:column: ``, the column from the caret that follows."""
    parts = _POSITION.split(log)
    text = [parts[0]]
    for file, line, colon, rest in zip(*(iter(parts[1:]),) * 4, strict=True):
        caret = re.search(r"^( *)\^[ \t]*$", rest, re.M)
        column = f":{max(len(caret[1]) - 1, 1)}" if caret else ""  # the quote is indented by 2
        text.append(f"{file}:{line}{column}{colon}{rest}")
    return "".join(text)


def _text(program: Any, getter: str) -> str:
    return _bytes(program, getter).rstrip(b"\0").decode(errors="replace").strip()


def _bytes(program: Any, getter: str) -> bytes:
    (size_bytes,) = _call(getter + "Size", program)
    buffer = bytearray(size_bytes)
    _call(getter, program, buffer)
    return bytes(buffer)


def _call(name: str, *arguments: Any) -> tuple[Any, ...]:
    """Call NVRTC; return what it returns beside its result, or raise ``DeviceError``."""
    nvrtc = _nvrtc()
    try:
        result, *values = getattr(nvrtc, name)(*arguments)
    except RuntimeError as error:  # the library behind the bindings is not there
        raise _not_installed(error) from error
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DeviceError(
            f"{name} failed with {result.name}; look up its meaning in NVRTC's documentation",
            call=name,
            code=result.name,
        )
    return tuple(values)


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise _not_installed(error) from error
    return nvrtc


def _not_installed(error: Exception) -> DeviceError:
    why = " ".join(str(error).split())  # the bindings' message has lines
    return DeviceError(
        f"NVRTC cannot be loaded: {why}; pip install 'ringflow[cuda13]'",
        call="nvrtc",
        code=NOT_INSTALLED,
    )
