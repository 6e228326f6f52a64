"""The headers that a kernel's source may include, the same under both front ends.

- Shipped ones lie in ``device/include``; ``include/std`` stands in for the C++ library's.
- A kernel's messages become structs in ``ringflow_messages.cuh``.
- ``cuda_names.cuh`` and its parts are clang's alone: NVRTC brings those names itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ringflow.messages import MessageLayout, check_names
from ringflow.names import check_cuda_name
from ringflow.spec import KernelSpec

INCLUDE_FOLDER: Final = Path(__file__).parent.parent / "include"
STANDARD_FOLDER: Final = INCLUDE_FOLDER / "std"
CUDA_NAMES: Final = INCLUDE_FOLDER / "cuda_names.cuh"
MESSAGES_HEADER: Final = "ringflow_messages.cuh"


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
        check_cuda_name(f"route {name!r}", name)
        lines.append(f"  constexpr unsigned int {name} = {number}u;")
    return (
        ["\n".join(["namespace routes {", *lines, "}  // namespace routes", ""])] if lines else []
    )


def _struct(layout: MessageLayout) -> str:
    check_names(layout)
    lines = [f"struct {layout.name} {{", f"  static constexpr unsigned int id = {layout.id}u;"]
    checks = []
    for field in layout.fields:
        lines.append(f"  {field.scalar.c_type} {field.name};")
        offset = f"__builtin_offsetof({layout.name}, {field.name})"
        checks.append(
            f'static_assert({offset} == {field.offset_bytes}, "{field.name} lies wrong");'
        )
    lines.append("};")
    size_bytes = layout.size_bytes or 1  # an empty struct has a byte, its payload none
    checks.append(f'static_assert(sizeof({layout.name}) == {size_bytes}, "its size is wrong");')
    return "\n".join([*lines, *checks, ""])
