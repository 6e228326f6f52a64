"""Kernels, code, messages and arrays in the words of scenario files: what ``describing`` reads.

- Pure. What the language can't say is a ``Gap``'s text, never left out in silence.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from ringflow import messages as kinds
from ringflow.code_source import CodeFormat, KernelCodeSource
from ringflow.messages import MessageLayout, Scalar
from ringflow.scenario.describing import DTYPES, HEX, HEX_BYTES_MAX, PLAIN, payload_of
from ringflow.scenario.script import quoted
from ringflow.spec import KernelSpec, Region

Gaps = list[str]
"""What a scenario can't say, a sentence each."""

_OPTIONS_OF_SEND: Final = frozenset(
    ("count", "data", "producer", "number", "done", "full", "bytes", "timeout")
)
_ZEROS: Final = ("0", "0.0")  # what a field is that is not given; -0.0 is something else
_CODES: Final = {
    scalar.code: name
    for name in ("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64")
    for scalar in getattr(kinds, name).__metadata__
    if isinstance(scalar, Scalar)
}


def word(key: str, text: str) -> str:
    """Return ``key=text``, quoted where it must be; ``""`` stands for a text that is empty."""
    if not text:
        return ""
    return f"{key}={quoted(text)}"


def words(*given: str) -> str:
    return " ".join(one for one in given if one)


def layout_text(layout: MessageLayout) -> str:
    """Return ``Add:1(value:u64)``."""
    fields = ",".join(f"{field.name}:{_CODES[field.code]}" for field in layout.fields)
    return f"{layout.name}:{layout.id}({fields})" if fields else f"{layout.name}:{layout.id}"


def source_lines(code: KernelCodeSource, gaps: Gaps) -> list[str]:
    """Return a source as the input of a command."""
    if code.format is not CodeFormat.SOURCE:
        gaps.append(f"{code.version_id} was given as {code.format.value}; give its CUDA source")
        return []
    lines = code.text.rstrip("\n").split("\n")
    if "----" in lines:
        gaps.append(f"the source of {code.version_id} has a line of four dashes, which ends it")
    return lines


def kernel_line(spec: KernelSpec, initial: Mapping[str, bytes] | None, gaps: Gaps) -> str:
    """Return the command that describes a kernel, without its source.

    Args:
        initial: bytes of the regions at the launch, None where nobody has them any more.
    """
    options = {
        "version": spec.code.version_id,
        "entry": spec.code.entry_point,
        "type": spec.kernel_type if spec.kernel_type != spec.kernel_id else "",
        "messages": " ".join(layout_text(layout) for layout in spec.messages),
        "regions": " ".join(_region(region, initial, gaps) for region in spec.regions),
        "arguments": " ".join(_argument(a.name, a.dtype, a.value) for a in spec.arguments),
        "grid": _dims(spec.grid),
        "block": _dims(spec.block),
        "routes": _routes(spec),
    }
    for name, default in PLAIN.items():
        if (value := getattr(spec, name)) != default:
            options[name] = "yes" if value is True else str(value)
    return words("kernel", spec.kernel_id, *(word(key, text) for key, text in options.items()))


def changed_words(old: KernelSpec, new: KernelSpec, gaps: Gaps) -> str:
    """Return the options of a reload for what it changes beside the code."""
    options = {}
    if new.messages != old.messages:
        options["messages"] = " ".join(layout_text(layout) for layout in new.messages)
    if [one.layout for one in new.regions] != [one.layout for one in old.regions]:
        zeros = {one.name: bytes(one.size_bytes) for one in new.regions}
        options["regions"] = " ".join(_region(one, zeros, gaps) for one in new.regions)
        gaps.append("regions that this code adds begin with zeros here")
    if new.arguments != old.arguments:
        options["arguments"] = " ".join(_argument(a.name, a.dtype, a.value) for a in new.arguments)
    if new.routes != old.routes:
        options["routes"] = _routes(new)
    return words(*(word(key, text) for key, text in options.items()))


def _dims(given: Any) -> str:
    if given == "fill":
        return "fill"
    x, y, z = given
    return f"{x},{y},{z}" if (y, z) != (1, 1) else str(x)


def _routes(spec: KernelSpec) -> str:
    """Return what the routes carry: the kernel's messages by name, others as a whole."""
    texts = []
    for route in spec.routes:
        carried = ",".join(
            layout.name if layout in spec.messages else layout_text(layout)
            for layout in route.messages
        )
        texts.append(f"{route.name}({carried})" if carried else route.name)
    return " ".join(texts)


def _argument(name: str, dtype: str, value: bytes) -> str:
    number = struct.unpack(f"<{DTYPES[dtype]}", value)[0]
    return f"{name}:{dtype}={number!r}"


def _region(region: Region, initial: Mapping[str, bytes] | None, gaps: Gaps) -> str:
    shape = ",".join(str(n) for n in region.shape)
    said = f"{region.name}:{region.dtype}[{shape}]"
    if initial is None or region.name not in initial:
        gaps.append(f"the launch's checkpoint is gone: region {region.name} begins with zeros here")
        return said
    data = initial[region.name]
    value = array_value(data, region.dtype)
    if value is None:
        gaps.append(
            f"region {region.name} begins with {len(data)} bytes that no line holds: zeros here"
        )
    return f"{said}={value}" if value else said


def array_value(data: bytes, dtype: str) -> str | None:
    """Return what stands behind an array's ``=``; "" for zeros, None if no line can say it."""
    if not any(data):
        return ""
    code = DTYPES[dtype]
    size = struct.calcsize(f"<{code}")
    if data == data[:size] * (len(data) // size):
        value = struct.unpack(f"<{code}", data[:size])[0]
        if type(value)(float(value)) == value:  # the language reads numbers as float64
            return repr(value)
    if data[:size] == bytes(size) and _counts_up(data, code, size):
        return "arange"
    return f"{HEX}{data.hex()}" if len(data) <= HEX_BYTES_MAX else None


def _counts_up(data: bytes, code: str, size: int) -> bool:
    values = struct.unpack(f"<{len(data) // size}{code}", data)
    return all(value == index for index, value in enumerate(values))


def message_words(
    layouts: tuple[MessageLayout, ...], type_id: int, payload: bytes, gaps: Gaps
) -> str:
    """Return a message's name and fields; its bytes where it is not of its declared form."""
    for layout in layouts:
        if layout.id == type_id and layout.size_bytes == len(payload):
            numbers = struct.unpack(layout.format, payload)
            named = zip(layout.fields, map(repr, numbers), strict=True)
            values = {field.name: text for field, text in named if text not in _ZEROS}
            if not _OPTIONS_OF_SEND.isdisjoint(values):
                return words(layout.name, word("bytes", payload.hex()))
            if payload_of(layout, values) == payload:
                return words(layout.name, *(f"{name}={text}" for name, text in values.items()))
    if any(layout.id == type_id for layout in layouts) or not layouts:
        gaps.append("the fields of the next payload's message don't say all of its bytes")
    return words(str(type_id), word("bytes", payload.hex()))
