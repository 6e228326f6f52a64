"""``check_source``: whether every device takes a source, and what only one of them refuses.

- The host's side is clang and then the translator, which may refuse PTX that clang made;
  the GPU's side is NVRTC, to a cubin.
- Nothing runs, and neither side's output ever goes to the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import attrs

from ringflow.device.compiler import clang
from ringflow.device.compiler.api import CompileTarget, FloatMode, compile_uncached
from ringflow.device.compiler.entries import cubin_kernels, ptx_kernels
from ringflow.device.compiler.nvrtc import NOT_INSTALLED
from ringflow.errors import (
    CompileError,
    DeviceError,
    PtxSyntaxError,
    SpecError,
    UnsupportedPtxError,
)

FrontEnd = Literal["clang", "translator", "nvrtc"]
Verdict = Literal["both", "host only", "gpu only", "neither", "incomplete"]

CHECK_FLAGS: Final = ("-ferror-limit=0", "-gline-tables-only", "-fno-caret-diagnostics")

_DIAGNOSTIC: Final = re.compile(
    r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d+)(?::(?P<column>\d+))?: "
    r"(?:catastrophic |fatal )?(?P<severity>error|warning)(?: #[\w-]+)?: (?P<text>.*)",
    re.M,
)
_SUMMARY: Final = re.compile(r"\b\d+ (?:errors?|warnings?)\b.*(?:generated|detected)")
_LOCATION: Final = re.compile(r"^\s*\.loc\s[^\n]*?//\s*(.*)$")
_POSITION: Final = re.compile(r"([^\s\[\]@:][^\[\]@:]*):(\d+):(\d+)")


@attrs.frozen
class Diagnostic:
    """What one front end said about one place; line 0 where it named none."""

    front_end: FrontEnd
    severity: Literal["error", "warning"]
    file: str
    line: int
    column: int
    text: str

    @property
    def place(self) -> str:
        column = f":{self.column}" if self.column else ""
        return f"{self.file}:{self.line}{column}" if self.line else self.file


@attrs.frozen(kw_only=True)
class CheckReport:
    """What the two sides made of one source.

    Attributes:
        host_takes: clang compiled it and the translator knows every operation.
        gpu_takes: NVRTC compiled it for ``architecture``; None where it is not installed.
        gpu_unchecked: why ``gpu_takes`` is None, else "".
        host_kernels, gpu_kernels: the kernels that each found; empty where it did not compile.
        diagnostics: all that was said, by place.
    """

    file: str
    architecture: str
    host_takes: bool
    gpu_takes: bool | None
    gpu_unchecked: str = ""
    host_kernels: tuple[str, ...]
    gpu_kernels: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def verdict(self) -> Verdict:
        if self.gpu_takes is None:
            return "incomplete"
        if self.host_takes and self.gpu_takes:
            return "both"
        if self.host_takes or self.gpu_takes:
            return "host only" if self.host_takes else "gpu only"
        return "neither"

    @property
    def one_sided(self) -> tuple[Diagnostic, ...]:
        """The errors in lines with which the other side, if it was asked, has no quarrel."""
        if self.gpu_takes is None:
            return ()
        errors = [one for one in self.diagnostics if one.severity == "error"]
        sides: dict[tuple[str, int], set[bool]] = {}
        for one in errors:
            sides.setdefault((one.file, one.line), set()).add(one.front_end == "nvrtc")
        return tuple(one for one in errors if len(sides[one.file, one.line]) == 1)

    @property
    def one_sided_kernels(self) -> tuple[str, ...]:
        """Kernels that only one side has, where both took the source."""
        if self.verdict != "both":
            return ()
        return tuple(sorted({*self.host_kernels} ^ {*self.gpu_kernels}))

    @property
    def good(self) -> bool:
        """Whether both sides take the source and see the same kernels."""
        return self.verdict == "both" and not self.one_sided_kernels


def check_source(
    source: str,
    *,
    name: str = "kernel.cu",
    architecture: str = "sm_80",
    headers: Mapping[str, str] | None = None,
    float_mode: FloatMode = "reproducible",
) -> CheckReport:
    """Compile a source with both front ends, and compare what they say.

    Args:
        architecture: the GPU's, exact, such as ``"sm_90"``.
        headers: texts that the source may include beside the shipped ones, by name.
    Raises:
        SpecError: the architecture is no ``sm_XX``.
        DeviceError: clang is not installed, or NVRTC does not know the architecture.
    """
    target = CompileTarget(architecture)
    if target.is_host:
        raise SpecError("the host is checked in any case; name a GPU's architecture such as sm_90")
    host_takes, host_kernels, said = _host_side(source, name, headers or {}, float_mode)
    gpu_takes: bool | None = True
    gpu_unchecked = ""
    gpu_kernels: tuple[str, ...] = ()
    try:
        cubin, log = compile_uncached(
            source,
            target=target,
            headers=headers or {},
            float_mode=float_mode,
            name=name,
        )
        gpu_kernels = cubin_kernels(cubin)
        said += _diagnostics("nvrtc", log, name, refused=False)
    except CompileError as error:
        gpu_takes = False
        said += _diagnostics("nvrtc", error.log, name, refused=True)
    except DeviceError as error:
        if error.code != NOT_INSTALLED:
            raise
        gpu_takes, gpu_unchecked = None, str(error)
    return CheckReport(
        file=name,
        architecture=architecture,
        host_takes=host_takes,
        gpu_takes=gpu_takes,
        gpu_unchecked=gpu_unchecked,
        host_kernels=host_kernels,
        gpu_kernels=gpu_kernels,
        diagnostics=tuple(sorted(said, key=lambda one: (one.file, one.line, one.column))),
    )


def _host_side(
    source: str, name: str, headers: Mapping[str, str], float_mode: FloatMode
) -> tuple[bool, tuple[str, ...], list[Diagnostic]]:
    """Compile with clang and let the translator read the result."""
    try:
        ptx, log = clang.compile_to_ptx(
            source, name=name, headers=headers, float_mode=float_mode, extra_flags=CHECK_FLAGS
        )
    except CompileError as error:
        return False, (), _diagnostics("clang", error.log, name, refused=True)
    said = _diagnostics("clang", log, name, refused=False)
    refusal = _translator_refusal(ptx, name)
    return refusal is None, ptx_kernels(ptx), said + ([refusal] if refusal else [])


def _translator_refusal(ptx: str, name: str) -> Diagnostic | None:
    """Return what the translator says against the PTX, at the place in the source."""
    from ringflow.device.host.ptx.parser import parse
    from ringflow.device.host.translate import emit_module

    lines = ptx.partition("\n\t.section")[0].splitlines()
    plain = ["" if re.match(r"\s*\.(loc|file)\s", line) else line for line in lines]
    try:
        emit_module(parse("\n".join(plain)), frozenset(), True)
    except (UnsupportedPtxError, PtxSyntaxError) as error:
        file, line, column = _source_place(lines, error.line, name)
        text = str(error).partition(": ")[2]
        return Diagnostic("translator", "error", file, line, column, text)
    return None


def _source_place(lines: list[str], ptx_line: int, name: str) -> tuple[str, int, int]:
    """Return the place in the user's source that a line of PTX was made from.

    Code inlined from elsewhere is placed at the call in the user's source.
    """
    for line in reversed(lines[: max(ptx_line, 0)]):
        if re.search(r"\.(entry|func)\b", line):
            break
        located = _LOCATION.match(line)
        if located:
            places = _POSITION.findall(located[1])
            if places:
                file, number, column = places[-1]
                return file.strip(), int(number), int(column)
    return name, 0, 0


def _diagnostics(front_end: FrontEnd, log: str, name: str, *, refused: bool) -> list[Diagnostic]:
    """Return the errors and warnings of a compiler's log; never none where it refused."""
    found = [
        Diagnostic(
            front_end,
            "error" if match["severity"] == "error" else "warning",
            match["file"],
            int(match["line"]),
            int(match["column"] or 0),
            match["text"].strip(),
        )
        for match in _DIAGNOSTIC.finditer(log)
    ]
    if refused and not any(one.severity == "error" for one in found):
        lines = [line for line in log.splitlines() if line.strip() and not _SUMMARY.search(line)]
        found.append(Diagnostic(front_end, "error", name, 0, 0, " ".join(lines).strip()))
    return found
