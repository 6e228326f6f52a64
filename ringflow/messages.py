"""Typed messages: frozen classes whose fields are laid out as a C struct.

- A layout follows natural C alignment, little-endian, so that host and device agree byte for byte.
- Types from ``SYSTEM_TYPES_FROM`` up belong to ringflow.
- A message without fields has an empty payload.
"""

from __future__ import annotations

import inspect
import keyword
import struct
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform

import attrs

from ringflow.errors import SpecError
from ringflow.names import check_cuda_name

if TYPE_CHECKING:
    import numpy as np

SYSTEM_TYPES_FROM: typing.Final = 0xFFFF0000


@attrs.frozen
class Scalar:
    """One C scalar: its name in CUDA C++, its ``struct`` code and its size in bytes."""

    c_type: str
    code: str
    size_bytes: int


u8 = Annotated[int, Scalar("unsigned char", "B", 1)]
u16 = Annotated[int, Scalar("unsigned short", "H", 2)]
u32 = Annotated[int, Scalar("unsigned int", "I", 4)]
u64 = Annotated[int, Scalar("unsigned long long", "Q", 8)]
i8 = Annotated[int, Scalar("signed char", "b", 1)]
i16 = Annotated[int, Scalar("short", "h", 2)]
i32 = Annotated[int, Scalar("int", "i", 4)]
i64 = Annotated[int, Scalar("long long", "q", 8)]
f32 = Annotated[float, Scalar("float", "f", 4)]
f64 = Annotated[float, Scalar("double", "d", 8)]

_SCALARS: typing.Final = {
    scalar.code: scalar
    for annotated in (u8, u16, u32, u64, i8, i16, i32, i64, f32, f64)
    for scalar in typing.get_args(annotated)
    if isinstance(scalar, Scalar)
}


@attrs.frozen
class MessageField:
    """A field of a message: name, ``struct`` code, and where it lies in the payload."""

    name: str
    code: str
    offset_bytes: int

    @property
    def scalar(self) -> Scalar:
        return _SCALARS[self.code]


@attrs.frozen
class MessageLayout:
    """How a message type lies in memory; all that the engine needs to know of its class."""

    id: int
    name: str
    fields: tuple[MessageField, ...]
    size_bytes: int

    @property
    def format(self) -> str:
        """The ``struct`` format of the payload, padding included."""
        text, end = "<", 0
        for field in self.fields:
            text += "x" * (field.offset_bytes - end) + field.code
            end = field.offset_bytes + field.scalar.size_bytes
        return text + "x" * (self.size_bytes - end)

    def fits(self, size_bytes: int) -> bool:
        """Whether a payload of this size is the struct; without fields, all bytes are free."""
        return not self.fields or size_bytes == self.size_bytes


T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=False)
def message(id: int) -> Callable[[type[T]], type[T]]:
    """Make a class a message of type ``id``; its annotated fields become a C struct.

    Raises:
        SpecError: the id is reserved, a field's annotation is not one of ``ringflow.u32`` etc., or
            CUDA C++ can't have a name.
    """
    if not isinstance(id, int):
        raise SpecError(f"message id {id!r} must be an integer, as in @ringflow.message(1)")
    if not 0 < id < SYSTEM_TYPES_FROM:
        raise SpecError(f"message id {id} must lie between 1 and {SYSTEM_TYPES_FROM - 1}")

    def decorate(cls: type[T]) -> type[T]:
        for name in inspect.get_annotations(cls):
            if keyword.iskeyword(name):  # attrs has no word for it
                raise SpecError(
                    f"field {name!r} of message {cls.__name__!r} is a keyword of Python; "
                    "choose another name"
                )
        made = attrs.frozen(cls)
        made.__ringflow_message_id__ = id  # type: ignore[attr-defined]
        layout_of(made)
        return made

    return decorate


def layout_of(cls: type[Any]) -> MessageLayout:
    """Return the memory layout of a class made by ``message``."""
    if not isinstance(cls, type):
        raise SpecError(f"{cls!r} is not a message class; give the class, not an instance of it")
    if "__ringflow_message_id__" not in cls.__dict__:
        raise SpecError(f"{cls.__name__} is not a message; decorate it with @ringflow.message(id)")
    cached = cls.__dict__.get("__ringflow_layout__")
    if isinstance(cached, MessageLayout):
        return cached
    layout = layout_from(
        cls.__ringflow_message_id__,
        cls.__name__,
        [(f.name, _scalar(cls, f.name)) for f in attrs.fields(cls)],
    )
    cls.__ringflow_layout__ = layout
    return layout


@attrs.frozen
class _Packing:
    """What packs a class's messages; kept with the class, for every send and reply needs it."""

    id: int
    names: tuple[str, ...]
    struct: struct.Struct


def _packing_of(cls: type[Any]) -> _Packing:
    cached = cls.__dict__.get("__ringflow_packing__")
    if isinstance(cached, _Packing):
        return cached
    layout = layout_of(cls)
    names = tuple(field.name for field in layout.fields)
    packing = _Packing(layout.id, names, struct.Struct(layout.format))
    cls.__ringflow_packing__ = packing
    return packing


def layout_from(id: int, name: str, fields: list[tuple[str, Scalar]]) -> MessageLayout:
    """Lay out named scalars with natural C alignment."""
    offset, alignment, placed = 0, 1, []
    for field_name, scalar in fields:
        offset += -offset % scalar.size_bytes
        placed.append(MessageField(field_name, scalar.code, offset))
        offset += scalar.size_bytes
        alignment = max(alignment, scalar.size_bytes)
    layout = MessageLayout(id, name, tuple(placed), offset + -offset % alignment)
    check_names(layout)
    return layout


def check_names(layout: MessageLayout) -> None:
    """Raise ``SpecError`` unless the names can stand in a C++ struct."""
    check_cuda_name(f"message {layout.name!r}", layout.name)
    for field in layout.fields:
        _check_field(layout.name, field.name)


def _check_field(message: str, name: str) -> None:
    check_cuda_name(f"field {name!r} of message {message!r}", name)
    if name in ("id", message):
        raise SpecError(
            f"message {message!r} has a field {name!r}, which its struct uses itself; "
            "choose another name"
        )


def _scalar(cls: type[Any], name: str) -> Scalar:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:  # imported for type checkers only, or local to a function
        raise SpecError(
            f"the annotations of {cls.__name__} can't be read in its module: {error}; import the "
            "types there"
        ) from None
    for extra in getattr(hints[name], "__metadata__", ()):
        if isinstance(extra, Scalar):
            return extra
    raise SpecError(
        f"{cls.__name__}.{name} must be annotated with a ringflow scalar such as ringflow.u32"
    )


def pack_many(
    given: type[Any] | Iterable[object], rows: np.ndarray[Any, Any] | None
) -> tuple[int, list[bytes]]:
    """Return the type and the payloads of messages of one class.

    Args:
        given: the messages, or their class if ``rows`` has them: structured[n], a field for each of
            the message's; or [n] for a single field.
    Raises:
        SpecError: they are of several classes, the array's fields are not the message's, or a value
            does not fit its type.
    """
    if isinstance(given, type) and rows is not None:
        return _pack_rows(given, rows)
    if isinstance(given, type) or rows is not None or not isinstance(given, Iterable):
        raise SpecError("give messages, all of one class, or a message class and an array of rows")
    messages = tuple(given)
    if len({type(one) for one in messages}) > 1:
        names = ", ".join(sorted({type(one).__name__ for one in messages}))
        raise SpecError(f"messages of several classes, {names}; send those of one class at a time")
    packed = [pack(one) for one in messages]
    return (packed[0][0] if packed else 0), [payload for _, payload in packed]


def _pack_rows(cls: type[Any], rows: np.ndarray[Any, Any]) -> tuple[int, list[bytes]]:
    import numpy as np

    layout = layout_of(cls)
    names = [field.name for field in layout.fields]
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or not names:
        raise SpecError(f"{layout.name} needs a one-dimensional array with fields {names}")
    given = list(rows.dtype.names or names[:1])
    if given != names or (rows.dtype.names is None and len(names) != 1):
        raise SpecError(f"{layout.name} has fields {names}, the array has {given}")
    packed = np.zeros(
        len(rows),
        dtype={
            "names": names,
            "formats": ["<" + field.code for field in layout.fields],
            "offsets": [field.offset_bytes for field in layout.fields],
            "itemsize": layout.size_bytes,
        },
    )
    for field in layout.fields:
        column = rows[field.name] if rows.dtype.names else rows
        packed[field.name] = column
        if field.code not in "fd" and not np.array_equal(packed[field.name], column):
            raise SpecError(f"{layout.name}.{field.name}: a value of the array does not fit")
    data, size = packed.tobytes(), layout.size_bytes
    return layout.id, [data[at : at + size] for at in range(0, len(data), size)]


def pack(value: object) -> tuple[int, bytes]:
    """Return a message's type and payload; raises ``SpecError`` if a value does not fit."""
    packing = _packing_of(type(value))
    values = [getattr(value, name) for name in packing.names]
    try:
        return packing.id, packing.struct.pack(*values)
    except struct.error as error:
        name = type(value).__name__
        raise SpecError(f"{name}{tuple(values)!r} does not fit its fields: {error}") from None


def unpack(cls: type[T], payload: bytes) -> T:
    """Build a message of class ``cls`` from a payload."""
    packing = _packing_of(cls)
    if len(payload) != packing.struct.size:
        raise SpecError(
            f"payload has {len(payload)} bytes, {cls.__name__} has {packing.struct.size}"
        )
    return cls(*packing.struct.unpack(payload))
