"""What names may be: those of kernels and regions, and those that stand in CUDA C++ as well."""

from __future__ import annotations

import re
from typing import Final

from ringflow.errors import SpecError

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,99}\Z")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEYWORDS: Final = (
    "alignas alignof and asm auto bool break case catch char class const constexpr const_cast "
    "continue decltype default delete do double dynamic_cast else enum explicit extern false float "
    "for friend goto if inline int long mutable namespace new noexcept not nullptr operator or "
    "private protected public register reinterpret_cast return short signed sizeof static "
    "static_assert static_cast struct switch template this throw true try typedef typeid typename "
    "union unsigned using virtual void volatile wchar_t while xor"
)


def check_name(what: str, name: object) -> None:
    """Raise ``SpecError`` unless it can name a kernel or a region, and streams of the journal."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise SpecError(
            f"{what} {name!r} is not a name: a letter or '_', then up to 99 letters, digits, '_.-'"
        )


def check_cuda_name(what: str, name: object) -> None:
    """Raise ``SpecError`` unless CUDA C++ can have the name too.

    Args:
        what: what is named, with its name.
    """
    if (
        not isinstance(name, str)
        or not _IDENTIFIER.match(name)
        or name in _KEYWORDS.split()
        or name.startswith("__")
    ):
        raise SpecError(
            f"{what} cannot be a name in CUDA C++, where it stands too; choose another: letters, "
            "digits and '_', no digit first, no keyword"
        )
