"""Memory layouts that Python and CUDA C++ share, told once and written out as C structs.

- A layout is a table of words at fixed offsets; the C struct is generated from it, never typed.
- Generated text stands between two marker lines of a source file; a test compares it.
- Offsets and sizes are in bytes, little-endian, naturally aligned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

GENERATED_BEGIN: Final = "// <generated: python -m ringflow.device.native.build>"
GENERATED_END: Final = "// </generated>"
_C_TYPES: Final = {1: "unsigned char", 4: "unsigned int", 8: "unsigned long long"}


@attrs.frozen
class Word:
    """One field: its place, its size (4 or 8 bytes) and what it says."""

    name: str
    offset_bytes: int
    size_bytes: int
    meaning: str


def u32(name: str, offset_bytes: int, meaning: str) -> Word:
    return Word(name, offset_bytes, 4, meaning)


def u64(name: str, offset_bytes: int, meaning: str) -> Word:
    return Word(name, offset_bytes, 8, meaning)


@attrs.frozen
class Layout:
    """A struct: its C name, size, alignment and words in ascending order."""

    name: str
    size_bytes: int
    words: tuple[Word, ...]
    alignment_bytes: int = attrs.field(default=8, kw_only=True)

    def __attrs_post_init__(self) -> None:
        end = 0
        for word in self.words:
            assert word.offset_bytes >= end, f"{self.name}.{word.name} overlaps the word before it"
            assert word.offset_bytes % word.size_bytes == 0, f"{self.name}.{word.name} is unaligned"
            end = word.offset_bytes + word.size_bytes
        assert end <= self.size_bytes, f"{self.name} is longer than {self.size_bytes} bytes"

    def __getitem__(self, name: str) -> int:
        """Return the offset in bytes of a word."""
        for word in self.words:
            if word.name == name:
                return word.offset_bytes
        raise KeyError(f"{self.name} has no word {name!r}")

    def c_struct(self) -> str:
        """Return the C struct with explicit padding and its static assertions."""
        lines = [f"struct alignas({self.alignment_bytes}) {self.name} {{"]
        end = 0
        for word in self.words:
            if word.offset_bytes > end:
                lines.append(f"    unsigned char reserved_{end}[{word.offset_bytes - end}];")
            lines.append(f"    {_C_TYPES[word.size_bytes]} {word.name};  // {word.meaning}")
            end = word.offset_bytes + word.size_bytes
        if end < self.size_bytes:
            lines.append(f"    unsigned char reserved_{end}[{self.size_bytes - end}];")
        lines.append("};")
        lines.append(f'static_assert(sizeof({self.name}) == {self.size_bytes}, "{self.name}");')
        lines += [
            f"static_assert(__builtin_offsetof({self.name}, {word.name}) == {word.offset_bytes}, "
            f'"{word.name}");'
            for word in self.words
        ]
        return "\n".join(lines)


def c_constants(constants: Iterable[tuple[str, int]]) -> str:
    """Return ``constexpr unsigned`` definitions."""
    return "\n".join(f"constexpr unsigned {name} = {value:#x}u;" for name, value in constants)


def replace_generated(source: str, generated: str) -> str:
    """Return ``source`` with the text between its marker lines replaced.

    Raises:
        ValueError: the source has no pair of marker lines.
    """
    head, begin, rest = source.partition(GENERATED_BEGIN + "\n")
    _, end, tail = rest.partition(GENERATED_END)
    if not begin or not end:
        raise ValueError("the source has no generated section; restore its two marker lines")
    return head + begin + generated.rstrip() + "\n" + end + tail
