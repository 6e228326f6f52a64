"""Kernels in a line or two: messages, regions and arguments as text, to a spec.

- What a CUDA file says of its kernel stands in its first comment lines: ``// regions: ...``.
- Messages: ``Add:1(value:u64) Total:2``; regions: ``state:uint64[4] cells:float32[64]=arange``;
  arguments: ``step:float32=0.5``; routes: ``next log(Add,Entry:3(value:u64))``, messages of the
  kernel's by name, others as a whole; arrays: ``uint8[16]=arange``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from ringflow import messages as kinds
from ringflow.code_source import KernelCodeSource
from ringflow.errors import SpecError
from ringflow.messages import MessageLayout, Scalar, layout_from
from ringflow.spec import Argument, Dim3, KernelSpec, Region, Route

if TYPE_CHECKING:
    import numpy as np

PLAIN: Final[Mapping[str, str | bool | float]] = {
    field.name: field.default
    for field in attrs.fields(KernelSpec)
    if isinstance(field.default, (str, bool, int, float))
}
"""The defaults of what a kernel's spec has as one word or number."""
OPTIONS: Final = (
    "type", "entry", "messages", "regions", "arguments", "grid", "block", "routes", *PLAIN,
)  # fmt: skip
CHANGES: Final = ("messages", "regions", "arguments", "routes")
"""What a reload may change beside the code."""
DTYPES: Final[Mapping[str, str]] = {
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "float16": "e", "int32": "i",
    "uint32": "I", "float32": "f", "int64": "q", "uint64": "Q", "float64": "d",
}  # fmt: skip
"""The ``struct`` code of each dtype."""
HEX: Final = "hex:"
"""What a region's or array's bytes begin with where they are given one by one."""
HEX_BYTES_MAX: Final = 256
_HEADER: Final = re.compile(r"// ?(\w+): (.*)")
_MESSAGE: Final = re.compile(r"(\w+):(\d+)(?:\(([^)]*)\))?")
_REGION: Final = re.compile(r"([\w.]+):(\w+)\[([\d,]+)\](?:=(\S+))?")
_ARRAY: Final = re.compile(r"(\w+)\[([\d,]+)\](?:=(\S+))?")
_ROUTE: Final = re.compile(r"(\w+)(?:\((.*)\))?")
_CARRIED: Final = re.compile(r"[^,(]+(?:\([^)]*\))?")
_ARGUMENT: Final = re.compile(r"(\w+):(\w+)=(\S+)")


def header_of(source: str) -> dict[str, str]:
    """Return the options that a CUDA file's first comment lines give."""
    found = {}
    for line in source.splitlines():
        if not line.startswith("//"):
            break
        if (said := _HEADER.fullmatch(line.strip())) and said[1] in OPTIONS:
            found[said[1]] = said[2]
    return found


def code_of(source: str, options: Mapping[str, str], version: str) -> KernelCodeSource:
    """Return the code; raises ``SpecError`` if nothing names the kernel in it."""
    entry = options.get("entry") or _only_kernel(source)
    return KernelCodeSource.from_cuda(source, entry, version_id=version)


def _only_kernel(source: str) -> str:
    found = re.findall(r"__global__\s+void\s+(\w+)\s*\(", source)
    if len(found) != 1:
        raise SpecError(f"the source has kernels {found}; name one with entry=")
    return str(found[0])


def spec_of(kernel_id: str, source: str, given: Mapping[str, str], version: str) -> KernelSpec:
    """Return a kernel's spec; what is ``given`` replaces what the source's header says.

    Raises:
        SpecError: an option is not of its form, or its values are not valid.
    """
    options = {**header_of(source), **given}
    named: dict[str, Any] = {
        name: _plain(options[name], default) for name, default in PLAIN.items() if name in options
    }
    layouts = messages_of(options.get("messages", ""))
    return KernelSpec(
        kernel_id=kernel_id,
        kernel_type=options.get("type", kernel_id),
        code=code_of(source, options, version),
        messages=layouts,
        regions=tuple(_region(text) for text in options.get("regions", "").split()),
        arguments=tuple(_argument(text) for text in options.get("arguments", "").split()),
        grid="fill" if options.get("grid") == "fill" else _dims(options.get("grid", "1")),
        block=_dims(options.get("block", "32")),
        routes=tuple(_route(text, layouts) for text in options.get("routes", "").split()),
        **named,
    )


def _plain(text: str, default: str | bool | float) -> str | bool | float:
    """Return the value of a text, of the type of the default."""
    match default:
        case str():
            return text
        case bool():
            return text == "yes"
        case int():
            return int(text, 0)
        case _:
            return float(text)


def changes_of(given: Mapping[str, str], layouts: tuple[MessageLayout, ...]) -> dict[str, Any]:
    """Return what a reload changes beside the code, as ``Engine.reload`` takes it.

    Args:
        given: texts of ``messages``, ``regions``, ``arguments``, ``routes``.
        layouts: the messages that the kernel has, which routes may carry.
    Raises:
        SpecError: a text is not of its form.
    """
    changes: dict[str, Any] = {}
    if "messages" in given:
        changes["messages"] = layouts = messages_of(given["messages"])
    if "regions" in given:
        changes["regions"] = tuple(_region(text) for text in given["regions"].split())
    if "arguments" in given:
        arguments = (_argument(text) for text in given["arguments"].split())
        changes["arguments"] = {one.name: scalar_of(one) for one in arguments}
    if "routes" in given:
        changes["routes"] = tuple(_route(text, layouts) for text in given["routes"].split())
    return changes


def scalar_of(argument: Argument) -> Any:
    """Return an argument's value as a numpy scalar."""
    import numpy as np

    return np.frombuffer(argument.value, dtype=argument.dtype)[0]


def _dims(text: str) -> Dim3:
    """Return the dimensions of ``8`` or ``8,2,1``."""
    x, y, z = (*(int(part) for part in text.split(",")), 1, 1)[:3]
    return x, y, z


def messages_of(text: str) -> tuple[MessageLayout, ...]:
    """Return the layouts of ``Add:1(value:u64) Total:2``."""
    found = [_MESSAGE.fullmatch(part) for part in re.findall(r"[^\s(]+(?:\([^)]*\))?", text)]
    return tuple(_message(one, text) for one in found)


def _message(found: re.Match[str] | None, text: str) -> MessageLayout:
    if found is None:
        raise SpecError(f"messages are {text!r}; write them as Add:1(value:u64) Total:2")
    fields: list[tuple[str, Scalar]] = []
    for field in (found[3] or "").split(","):
        name, _, kind = field.strip().partition(":")
        annotated = getattr(kinds, kind, None)
        scalar = next(iter(getattr(annotated, "__metadata__", ())), None)
        if isinstance(scalar, Scalar):
            fields.append((name, scalar))
        elif name:
            raise SpecError(f"field {field!r} of {found[1]} has no type such as u64 or f32")
    return layout_from(int(found[2]), found[1], fields)


def payload_of(layout: MessageLayout, values: Mapping[str, str]) -> bytes:
    """Return a message's payload; fields that are not given are 0; raises ``SpecError``."""
    unknown = set(values) - {field.name for field in layout.fields}
    if unknown:
        names = ", ".join(field.name for field in layout.fields) or "none"
        raise SpecError(f"{layout.name} has no field {min(unknown)!r}; its fields: {names}")
    try:
        numbers = [
            float(values.get(field.name, "0"))
            if field.code in "fd"
            else int(values.get(field.name, "0"), 0)
            for field in layout.fields
        ]
        return struct.pack(layout.format, *numbers)
    except (ValueError, struct.error) as error:
        raise SpecError(f"{dict(values)} does not fit {layout.name}: {error}") from None


def array_of(text: str) -> np.ndarray[Any, Any]:
    """Return the array of ``uint8[16]=arange``, zeros without a value; raises ``SpecError``."""

    found = _ARRAY.fullmatch(text)
    if found is None:
        raise SpecError(f"array {text!r} is not of the form dtype[4,4] or with =arange")
    shape = tuple(int(part) for part in found[2].split(","))
    try:
        return _initial(found[3] or "0", found[1], shape)
    except TypeError:
        raise SpecError(f"{found[1]!r} is no dtype such as uint8 or float32") from None


def _route(text: str, layouts: tuple[MessageLayout, ...]) -> Route:
    """Return the route of ``log(Add,Entry:3(value:u64))``; names are the kernel's messages'."""
    found = _ROUTE.fullmatch(text)
    if found is None:
        raise SpecError(f"route {text!r} is not of the form next or log(Add,Total)")
    known = {layout.name: layout for layout in layouts}
    carried: list[MessageLayout] = []
    for one in _CARRIED.findall(found[2] or ""):
        if ":" in one:
            carried += messages_of(one)
        elif one in known:
            carried.append(known[one])
        else:
            raise SpecError(
                f"route {found[1]} carries {one!r}, which is no message of these; "
                f"write it whole, as {one}:3(value:u64)"
            )
    return Route(found[1], messages=carried)


def _region(text: str) -> Region:
    found = _REGION.fullmatch(text)
    if found is None:
        raise SpecError(f"region {text!r} is not of the form name:dtype[4,4] or with =arange")
    shape = tuple(int(part) for part in found[3].split(","))
    initial = _initial(found[4], found[2], shape) if found[4] else None
    return Region(found[1], dtype=found[2], shape=shape, initial=initial)


def _initial(text: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    import numpy as np

    if text == "arange":
        return np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    try:
        if text.startswith(HEX):
            content = bytes.fromhex(text.removeprefix(HEX))
            return np.frombuffer(content, dtype=dtype).reshape(shape)
        return np.full(shape, float(text), dtype=dtype)
    except ValueError:
        raise SpecError(
            f"an array can't begin with {text!r}; use arange, a number, or {HEX} and its bytes"
        ) from None


def _argument(text: str) -> Argument:
    import numpy as np

    found = _ARGUMENT.fullmatch(text)
    if found is None:
        raise SpecError(f"argument {text!r} is not of the form name:float32=0.5")
    number = int(found[3], 0) if re.fullmatch(r"-?\d+", found[3]) else float(found[3])
    return Argument(found[1], found[2], np.dtype(found[2]).type(number).tobytes())
