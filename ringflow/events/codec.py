"""The form of events on disk: canonical JSON objects with an explicit ``type``.

- Equal events have equal bytes: keys sorted, no spaces, one form for each value.
- Nothing is coerced: what was written as an int is read as an int or refused.
- Integers beyond 2**53 are decimal strings, bytes are base64 strings, NaN and the infinities are
  the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
- An event that can be written can be read: values of the wrong type are refused on both ways.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, Final, Protocol, final, get_args, get_origin

import attrs
import cattrs
import cattrs.gen
import orjson

from ringflow.errors import EventFormatError, UnknownEventError, UsageError
from ringflow.events.payloads import PayloadCodec, brought_back
from ringflow.events.upcasters import Upcaster, check_upcasters, upcast

SAFE_INTEGER: Final = 2**53
CODEC_MEMBER: Final = "codec"  # beside ``type``: the codec of an event's payloads
_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Event(Protocol):
    """What every event type has: a frozen attrs class with a wire name that never changes."""

    wire_name: ClassVar[str]


def dump_integer(value: int) -> int | str:
    """Return ``value``, as a string if it is beyond 2**53 (other readers round it)."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an int")
    return value if -SAFE_INTEGER <= value <= SAFE_INTEGER else str(value)


def load_integer(value: object) -> int:
    """Return the int that ``dump_integer`` wrote; raises ``ValueError`` for any other form."""
    if type(value) is int and -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return value
    if type(value) is str:
        number = int(value)
        if str(number) == value and not -SAFE_INTEGER <= number <= SAFE_INTEGER:
            return number
    raise ValueError(f"{value!r} is not an integer in its canonical form")


def _dump_float(value: float) -> float | str:
    if type(value) is bool or not isinstance(value, (float, int)):
        raise TypeError(f"{value!r} is not a float")
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _load_float(value: object, _: object) -> float:
    if type(value) is float:
        return value
    if type(value) is str and value in _SPECIAL:
        return _SPECIAL[value]
    raise ValueError(f"{value!r} is not a float in its canonical form")


def _dump_bytes(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _load_bytes(value: object, _: object) -> bytes:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a base64 string")
    return binascii.a2b_base64(value, strict_mode=True)


def _fields(kind: type[Any]) -> tuple[attrs.Attribute[Any], ...]:
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(kind)
    return fields


def _exactly(kind: type) -> Callable[[Any], Any]:
    def dump(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is not a {kind.__name__}")
        return value

    return dump


def _load_exactly(kind: type) -> Callable[[Any, Any], Any]:
    def load(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is not a {kind.__name__}")
        return value

    return load


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _tuple_loader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    item = get_args(kind)[0]
    load = converter.get_structure_hook(item)

    def load_tuple(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise ValueError(f"{value!r} is not a list")
        return tuple([load(one, item) for one in value])

    return load_tuple


def _tuple_dumper(kind: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    item = get_args(kind)[0]
    dump = converter.get_unstructure_hook(item)

    def dump_tuple(value: Any) -> Any:
        if type(value) is not tuple:
            raise TypeError(f"{value!r} is not a tuple")
        if item is int:  # records of messages are full of these: no call for each
            low, high = -SAFE_INTEGER, SAFE_INTEGER
            return [
                one if type(one) is int and low <= one <= high else dump_integer(one)
                for one in value
            ]
        return [dump(one) for one in value]

    return dump_tuple


def _new_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_structure_hook(int, lambda value, _: load_integer(value))
    converter.register_unstructure_hook(int, dump_integer)
    converter.register_structure_hook(float, _load_float)
    converter.register_unstructure_hook(float, _dump_float)
    converter.register_structure_hook(bytes, _load_bytes)
    converter.register_unstructure_hook(bytes, _dump_bytes)
    for kind in (str, bool):
        converter.register_structure_hook(kind, _load_exactly(kind))
        converter.register_unstructure_hook(kind, _exactly(kind))
    converter.register_structure_hook_factory(_is_tuple)(_tuple_loader)
    converter.register_unstructure_hook_factory(_is_tuple)(_tuple_dumper)
    return converter


_Hooks = dict[type[Event], Callable[..., Any]]


@cache
def _hooks(types: tuple[type[Event], ...]) -> tuple[_Hooks, _Hooks]:
    """Return how to unstructure and structure each type; made once, for that takes 0.1 s."""
    converter = _new_converter()
    return (
        {kind: converter.get_unstructure_hook(kind) for kind in types},
        {kind: converter.get_structure_hook(kind) for kind in types},
    )


@final
class EventCodec:
    """Turns events into plain JSON values and bytes, and back.

    Args:
        types: every event type that may be written or read; an explicit list, wire names unique.
        upcasters: by old wire name; every chain must end at one of ``types``.
        payloads: in which form payloads are kept; None: as they are.
    Raises:
        UsageError: a wire name is missing or used twice, or a field is named ``type``.
    """

    def __init__(
        self,
        types: Sequence[type[Event]],
        upcasters: Mapping[str, Upcaster] | None = None,
        *,
        payloads: PayloadCodec | None = None,
    ) -> None:
        self._payloads = payloads
        self._upcasters = dict(upcasters or {})
        self._types: dict[str, type[Event]] = {}
        for kind in types:
            self._add(kind)
        check_upcasters(self._upcasters, frozenset(self._types))
        self._dumps, by_kind = _hooks(tuple(self._types.values()))
        self._loads = {name: by_kind[kind] for name, kind in self._types.items()}

    @property
    def types(self) -> tuple[type[Event], ...]:
        return tuple(self._types.values())

    @property
    def wire_names(self) -> frozenset[str]:
        """Every name that can be read, those of older shapes too."""
        return frozenset((*self._types, *self._upcasters))

    def newest_name(self, wire_name: str) -> str:
        """Return the name that the upcasters lead to from ``wire_name``."""
        while (step := self._upcasters.get(wire_name)) is not None:
            wire_name = step.target
        return wire_name

    def _add(self, kind: type[Event]) -> None:
        name = getattr(kind, "wire_name", None)
        is_attrs: bool = attrs.has(kind)
        if not isinstance(name, str) or not is_attrs:
            raise UsageError(f"{kind.__name__} is no attrs class with a wire_name; give it one")
        if name in self._types:
            raise UsageError(f"two event types are named {name!r}; rename the newer one")
        for taken in {"type", CODEC_MEMBER} & {field.name for field in _fields(kind)}:
            raise UsageError(f"{kind.__name__} has a field named {taken!r}; rename the field")
        self._types[name] = kind

    def to_plain(self, event: Event) -> dict[str, Any]:
        """Return the JSON object of ``event``; raises ``UsageError`` for what can't be written."""
        dump = self._dumps.get(type(event))
        if dump is None:
            raise UsageError(
                f"{type(event).__name__} is not among the journal's event types; "
                "list it in the registry"
            )
        if self._payloads is not None and (names := _payload_fields(event)):
            kept = _changed(event, names, partial(self._payloads.stored, _kernel_of(event)))
            return {**self._plain(kept, dump), CODEC_MEMBER: self._payloads.name}
        return self._plain(event, dump)

    def _plain(self, event: Event, dump: Callable[[Any], Any]) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = dump(event)
        except (TypeError, AttributeError) as error:
            raise UsageError(
                f"event {event.wire_name!r} can't be written: {error}; "
                "construct it with values of the declared types"
            ) from error
        fields["type"] = event.wire_name
        return fields

    def from_plain(self, plain: Mapping[str, Any]) -> Event:
        """Return the event of a JSON object, upcast to its newest shape.

        Raises:
            UnknownEventError: no event type and no upcaster has this name.
            EventFormatError: a field is missing, unknown or of another type.
        """
        fields: Mapping[str, Any] = dict(plain)
        name = fields.pop("type", None)  # type: ignore[attr-defined]
        if type(name) is not str:
            raise EventFormatError("", "the object has no 'type'")
        codec = fields.pop(CODEC_MEMBER, None)  # type: ignore[attr-defined]
        name, fields = upcast(self._upcasters, name, fields)
        load = self._loads.get(name)
        if load is None:
            raise UnknownEventError(name)
        try:
            event: Event = load(fields, self._types[name])
        except Exception as error:  # cattrs and the events' own validators raise many kinds
            raise EventFormatError(name, str(error) or type(error).__name__) from error
        return event if codec is None else self._opened(event, codec)

    def _opened(self, event: Event, codec: object) -> Event:
        """Return ``event`` with the payloads that were sent, or with ``LeftOutPayload``."""
        names = _payload_fields(event)
        if type(codec) is not str or not codec or not names:
            raise EventFormatError(event.wire_name, f"unknown field {CODEC_MEMBER!r}")
        return _changed(
            event, names, partial(brought_back, self._payloads, codec, _kernel_of(event))
        )

    def encode(self, events: Sequence[Event]) -> bytes:
        """Return the canonical JSON array of ``events``; raises ``UsageError``."""
        try:
            return canonical_json([self.to_plain(event) for event in events])
        except TypeError as error:  # a str with a lone surrogate
            raise UsageError(f"events can't be written: {error}; mend the text") from error

    def decode(self, data: bytes) -> tuple[Event, ...]:
        """Return the events of a JSON array; raises as ``from_plain``."""
        try:
            plain = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise EventFormatError("", str(error)) from error
        return tuple([self.from_plain(one) for one in plain])


def _payload_fields(event: Event) -> tuple[str, ...]:
    return getattr(event, "payload_fields", ())


def _kernel_of(event: Event) -> str:
    return str(getattr(event, "kernel_id", ""))


def _changed(event: Event, names: Sequence[str], change: Callable[[bytes], bytes]) -> Event:
    values: dict[str, Any] = {}
    for name in names:
        value = getattr(event, name)
        values[name] = (
            tuple([change(one) for one in value]) if type(value) is tuple else change(value)
        )
    changed: Event = attrs.evolve(event, **values)  # type: ignore[misc]
    return changed


def canonical_json(value: object) -> bytes:
    """Return ``value`` as JSON with sorted keys and no spaces; the one form that is hashed."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
