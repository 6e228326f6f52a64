"""The form of events on disk: canonical JSON objects with an explicit ``type``.

- Equal events have equal bytes: keys sorted, no spaces, one form for each value.
- An event that can be written can be read: values of the wrong type are refused on both ways.
- ``generated`` has the quick way for what nearly every event holds, ``values`` the one for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import Any, ClassVar, Final, Protocol, final

import attrs
import orjson

from ringflow.errors import EventFormatError, UnknownEventError, UsageError
from ringflow.events.generated import Reader, Writer, reader_of, writer_of
from ringflow.events.payloads import PayloadCodec, brought_back
from ringflow.events.upcasters import Upcaster, check_upcasters, upcast
from ringflow.events.values import canonical_json, new_converter

CODEC_MEMBER: Final = "codec"  # beside ``type``: the codec of an event's payloads


class Event(Protocol):
    """What every event type has: a frozen attrs class with a wire name that never changes."""

    wire_name: ClassVar[str]


def _fields(kind: type[Any]) -> tuple[attrs.Attribute[Any], ...]:
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(kind)
    return fields


_Hooks = dict[type[Event], Callable[..., Any]]


@cache
def _hooks(types: tuple[type[Event], ...]) -> tuple[_Hooks, _Hooks]:
    """Return how to unstructure and structure each type; made once, for that takes 0.1 s.

    It is put off until an event needs it: few journals hold one.
    """
    converter = new_converter()
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
        self._writers: dict[type[Event], Writer] = {}
        self._readers: dict[str, Reader] = {}

    @cached_property
    def _hooks(self) -> tuple[_Hooks, _Hooks]:
        return _hooks(tuple(self._types.values()))

    def _writer(self, kind: type[Event]) -> Writer:
        """Find what writes events of ``kind``, at its first event: it takes 0.2 ms to make."""
        if self._types.get(getattr(kind, "wire_name", "")) is not kind:
            return self.to_plain  # which refuses it
        changes = self._payloads is not None and _payload_fields(kind)
        writer = None if changes else writer_of(kind)
        return self._writers.setdefault(kind, writer or self.to_plain)

    def _reader(self, name: str) -> Reader | None:
        kind = self._types.get(name)
        if kind is None or (reader := reader_of(kind)) is None:
            return None
        return self._readers.setdefault(name, reader)

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
        dump = self._hooks[0].get(type(event))
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
        name = plain.get("type")
        if type(name) is str and (read := self._readers.get(name) or self._reader(name)):
            try:
                event: Event | None = read(plain)
            except (ValueError, UsageError):  # the general way says what is wrong
                event = None
            if event is not None:
                return event
        return self._read(plain)

    def _read(self, plain: Mapping[str, Any]) -> Event:
        fields: Mapping[str, Any] = dict(plain)
        name = fields.pop("type", None)  # type: ignore[attr-defined]
        if type(name) is not str:
            raise EventFormatError("", "the object has no 'type'")
        codec = fields.pop(CODEC_MEMBER, None)  # type: ignore[attr-defined]
        name, fields = upcast(self._upcasters, name, fields)
        kind = self._types.get(name)
        if kind is None:
            raise UnknownEventError(name)
        load = self._hooks[1][kind]
        try:
            event: Event = load(fields, kind)
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
        plain = []
        for event in events:
            write = self._writers.get(type(event)) or self._writer(type(event))
            one = write(event)
            plain.append(self.to_plain(event) if one is None else one)
        try:
            return canonical_json(plain)
        except TypeError as error:  # a str with a lone surrogate
            raise UsageError(f"events can't be written: {error}; mend the text") from error

    def decode(self, data: bytes) -> tuple[Event, ...]:
        """Return the events of a JSON array; raises as ``from_plain``."""
        try:
            plain = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise EventFormatError("", str(error)) from error
        return tuple([self.from_plain(one) for one in plain])


def _payload_fields(event: Event | type[Event]) -> tuple[str, ...]:
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
