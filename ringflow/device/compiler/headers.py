"""The headers that a kernel's source may include, the same under both front ends.

- Shipped ones lie in ``device/include``; ``include/std`` stands in for the C++ library's.
- A kernel's messages become structs in ``ringflow_messages.cuh``.
- ``cuda_names.cuh`` and its parts are clang's alone: NVRTC brings those names itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ringflow.errors import SpecError
from ringflow.messages import MessageLayout
from ringflow.spec import KernelSpec

INCLUDE_FOLDER: Final = Path(__file__).parent.parent / "include"
STANDARD_FOLDER: Final = INCLUDE_FOLDER / "std"
CUDA_NAMES: Final = INCLUDE_FOLDER / "cuda_names.cuh"
MESSAGES_HEADER: Final = "ringflow_messages.cuh"

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEYWORDS: Final = (
    "alignas alignof and asm auto bool break case catch char class const constexpr const_cast "
    "continue decltype default delete do double dynamic_cast else enum explicit extern false float "
    "for friend goto if inline int long mutable namespace new noexcept not nullptr operator or "
    "private protected public register reinterpret_cast return short signed sizeof static "
    "static_assert static_cast struct switch template this throw true try typedef typeid typename "
    "union unsigned using virtual void volatile wchar_t while xor"
)


@functools.cache
def shipped_headers() -> Mapping[str, str]:
    """Return the text of each shipped header by the name that an ``#include`` gives."""
    headers = {}
    for path in sorted(INCLUDE_FOLDER.rglob("*")):
        if path in _cuda_names_files():
            continue
        if path.is_file() and path.suffix in ("", ".h", ".cuh"):
            base = STANDARD_FOLDER if path.is_relative_to(STANDARD_FOLDER) else INCLUDE_FOLDER
            headers[path.relative_to(base).as_posix()] = path.read_text(encoding="utf-8")
    return headers


@functools.cache
def cuda_names_texts() -> tuple[str, ...]:
    """Return the texts that clang reads before every source."""
    return tuple(path.read_text(encoding="utf-8") for path in _cuda_names_files())


def _cuda_names_files() -> tuple[Path, ...]:
    return (CUDA_NAMES, *sorted(CUDA_NAMES.with_suffix("").glob("*.cuh")))


def messages_header(layouts: Iterable[MessageLayout], routes: Iterable[str] = ()) -> str:
    """Return ``ringflow_messages.cuh``: a struct a message with its type as ``id``, and the routes.

    A route is a constant in ``namespace routes``: its place among ``routes``, from 0.

    The compiler of the kernel checks each size and offset against the layout that Python uses.

    Raises:
        SpecError: a message's, a field's or a route's name cannot stand in CUDA C++.
    """
    parts = ["// Made from the kernel's messages.\n#pragma once\n"]
    parts += [_struct(layout) for layout in layouts]
    parts += _routes(routes)
    return "\n".join(parts)


def spec_headers(spec: KernelSpec) -> dict[str, str]:
    """Return what is made for a spec's code, by name: its messages, its routes and theirs."""
    header = messages_header(spec.struct_layouts, (route.name for route in spec.routes))
    return {MESSAGES_HEADER: header}


def _routes(names: Iterable[str]) -> list[str]:
    lines = []
    for number, name in enumerate(names):
        _check_name(f"route {name!r}", name)
        lines.append(f"  constexpr unsigned int {name} = {number}u;")
    return (
        ["\n".join(["namespace routes {", *lines, "}  // namespace routes", ""])] if lines else []
    )


def _struct(layout: MessageLayout) -> str:
    _check_name(f"message {layout.name!r}", layout.name)
    lines = [f"struct {layout.name} {{", f"  static constexpr unsigned int id = {layout.id}u;"]
    checks = []
    for field in layout.fields:
        _check_name(f"field {field.name!r} of message {layout.name!r}", field.name)
        if field.name in ("id", layout.name):
            raise SpecError(
                f"message {layout.name!r} has a field {field.name!r}, which its struct uses "
                "itself; choose another name"
            )
        lines.append(f"  {field.scalar.c_type} {field.name};")
        offset = f"__builtin_offsetof({layout.name}, {field.name})"
        checks.append(
            f'static_assert({offset} == {field.offset_bytes}, "{field.name} lies wrong");'
        )
    lines.append("};")
    size_bytes = layout.size_bytes or 1  # an empty struct has a byte, its payload none
    checks.append(f'static_assert(sizeof({layout.name}) == {size_bytes}, "its size is wrong");')
    return "\n".join([*lines, *checks, ""])


def _check_name(what: str, name: str) -> None:
    if not _IDENTIFIER.match(name) or name in _KEYWORDS.split() or name.startswith("__"):
        raise SpecError(f"{what} cannot be a name in CUDA C++; choose another")
