"""What kernels a compiled code has, and what parameters they take. Pure: bytes in, values out."""

from __future__ import annotations

import re
import struct
from typing import Final

import attrs

from ringflow.errors import CorruptError, EntryPointError

_ENTRY: Final = re.compile(
    r"^\s*(?:\.visible\s+|\.weak\s+)*\.entry\s+([\w$%]+)\s*(\(([^)]*)\))?", re.M
)
_PARAMETER: Final = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.([a-z]+)(\d+)\s+"
    r"(?:\.ptr\s+(?:\.(?:global|const|local|shared)\s+)?(?:\.align\s+\d+\s+)?)?([\w$%]+)(?:\s*\[(\d+)\])?"
)
_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_CONSTANTS_OF: Final = b".nv.constant0."


@attrs.frozen
class ParameterInfo:
    """One parameter of a kernel: its name in the PTX, its size and alignment."""

    name: str
    size_bytes: int
    alignment_bytes: int


def ptx_kernels(ptx: str) -> tuple[str, ...]:
    """Return the names of the kernels in PTX, in their order."""
    return tuple(found[1] for found in _ENTRY.finditer(_COMMENT.sub("", ptx)))


def entry_parameters(ptx: str, entry_point: str) -> tuple[ParameterInfo, ...]:
    """Return a kernel's parameters in order; raises ``EntryPointError`` if it is not there."""
    text = _COMMENT.sub("", ptx)
    for entry in _ENTRY.finditer(text):
        if entry[1] == entry_point:
            return tuple(_parameter(found) for found in _PARAMETER.finditer(entry[3] or ""))
    raise missing_entry(entry_point, ptx_kernels(ptx), "the PTX")


def _parameter(found: re.Match[str]) -> ParameterInfo:
    align, _, bits, name, count = found.groups()
    element_bytes = int(bits) // 8
    return ParameterInfo(
        name, element_bytes * int(count) if count else element_bytes, int(align or element_bytes)
    )


def cubin_kernels(cubin: bytes) -> tuple[str, ...]:
    """Return the names of the kernels in a cubin, an ELF file, in their sections' order.

    A kernel, unlike a device function, has a section of constants that holds its parameters.

    Raises:
        CorruptError: the bytes are not a 64-bit little-endian ELF file with sections.
    """
    if cubin[:6] != b"\x7fELF\x02\x01":
        raise CorruptError("the cubin is not a 64-bit ELF file; compile it again")
    try:
        (table_offset,) = struct.unpack_from("<Q", cubin, 40)
        entry_bytes, count, names_index = struct.unpack_from("<HHH", cubin, 58)
        places = [table_offset + entry_bytes * index for index in range(count)]
        (names_offset,) = struct.unpack_from("<Q", cubin, places[names_index] + 24)
        starts = [names_offset + struct.unpack_from("<I", cubin, place)[0] for place in places]
        names = [cubin[start : cubin.index(b"\0", start)] for start in starts]
    except (struct.error, IndexError, ValueError) as error:
        raise CorruptError(
            f"the cubin's sections are damaged: {error}; compile it again"
        ) from error
    return tuple(
        name.removeprefix(_CONSTANTS_OF).decode()
        for name in names
        if name.startswith(_CONSTANTS_OF)
    )


def missing_entry(entry_point: str, kernels: tuple[str, ...], where: str) -> EntryPointError:
    """Return the error for an entry point that is not among the kernels that there are."""
    advice = "correct the entry point"
    if any(re.match(rf"_Z.*{len(entry_point)}{entry_point}", kernel) for kernel in kernels):
        advice = f'declare it extern "C" __global__ void {entry_point}(...)'
    elif not kernels:
        advice = f'add extern "C" __global__ void {entry_point}(...)'
    return EntryPointError(
        f"no kernel {entry_point!r} in {where}; it has: {', '.join(kernels) or 'none'}; {advice}",
        call="compile",
        code="no such entry point",
    )
