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
_CONSTANTS_OF: Final = ".nv.constant0."
_LITERAL: Final = re.compile(r"(?:\$str(?:\$\d+)?|__unnamed_\d+)\Z")
"""A string literal, or what ``assert`` and ``__func__`` are made of; only the compiler names
something so."""
_GLOBALS: Final = (".nv.global", ".nv.global.init")
_SECTION: Final = struct.Struct("<IIQQQQI")  # name, type, flags, address, offset, size, link
_SYMBOL: Final = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_SYMBOL_TABLE: Final = 2
_OBJECT: Final = 1


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
    return tuple(
        section.name.removeprefix(_CONSTANTS_OF)
        for section in _sections(cubin)
        if section.name.startswith(_CONSTANTS_OF)
    )


def cubin_variables(cubin: bytes) -> dict[str, int]:
    """Return the sizes in bytes of a cubin's ``__device__`` variables, by symbol.

    Those in memory that the code may write to, read-only ones among them; ``__constant__`` ones
    and shared memory are others. Raises ``CorruptError`` as ``cubin_kernels``.
    """
    sections = _sections(cubin)
    found = {}
    try:
        for table in sections:
            if table.type != _SYMBOL_TABLE:
                continue
            names_offset = sections[table.link].offset
            for offset in range(table.offset, table.offset + table.size_bytes, _SYMBOL.size):
                name, info, _, index, _, size_bytes = _SYMBOL.unpack_from(cubin, offset)
                if info & 0xF != _OBJECT or not 0 < index < len(sections):
                    continue
                symbol = _text_at(cubin, names_offset + name)
                if sections[index].name in _GLOBALS and not _LITERAL.match(symbol):
                    found[symbol] = size_bytes
    except (struct.error, IndexError, ValueError) as error:
        raise _damaged(error) from error
    return found


@attrs.frozen
class _Section:
    name: str
    type: int
    offset: int
    size_bytes: int
    link: int


def _sections(cubin: bytes) -> list[_Section]:
    if cubin[:6] != b"\x7fELF\x02\x01":
        raise CorruptError("the cubin is not a 64-bit ELF file; compile it again")
    try:
        (table_offset,) = struct.unpack_from("<Q", cubin, 40)
        entry_bytes, count, names_index = struct.unpack_from("<HHH", cubin, 58)
        rows = [
            _SECTION.unpack_from(cubin, table_offset + entry_bytes * index)
            for index in range(count)
        ]
        names_offset = rows[names_index][4]
        return [
            _Section(_text_at(cubin, names_offset + row[0]), row[1], row[4], row[5], row[6])
            for row in rows
        ]
    except (struct.error, IndexError, ValueError) as error:
        raise _damaged(error) from error


def _text_at(cubin: bytes, offset: int) -> str:
    return cubin[offset : cubin.index(b"\0", offset)].decode()


def _damaged(error: Exception) -> CorruptError:
    return CorruptError(f"the cubin's sections are damaged: {error}; compile it again")


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
