"""The engine's state as canonical JSON, for snapshots of it and for an archive's base record.

- Equal states have equal bytes; what was encoded decodes to an equal state.
- Nothing is coerced; an unknown field is refused. A field that is missing takes its default: a
  base record outlives the version that wrote it, so new fields of the state have defaults.
- ``state_shape`` changes with any field, type or default-less name: a snapshot of another shape
  is discarded.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, Final, get_args, get_origin

import attrs
import cattrs
import orjson

from ringflow.engine.state import EngineState, Operation
from ringflow.errors import CorruptError
from ringflow.events.values import canonical_json, dump_integer, load_exactly, load_integer
from ringflow.statemachines.hot_reload import Reload
from ringflow.statemachines.migration import Migration
from ringflow.statemachines.snapshot import Snapshot

_OPERATIONS: Final[Mapping[str, type[Operation]]] = {
    "migration": Migration,
    "reload": Reload,
    "snapshot": Snapshot,
}
_OPERATION_NAMES: Final = {kind: name for name, kind in _OPERATIONS.items()}


def encode_state(state: EngineState) -> bytes:
    """Return the canonical JSON of ``state``."""
    return canonical_json(_converter().unstructure(state, EngineState))


def decode_state(data: bytes) -> EngineState:
    """Return the state that was encoded.

    Raises:
        CorruptError: it is none, or one of a version that knew more.
    """
    try:
        # Older ones don't say whether it was closed; an end in order comes after them as an event.
        plain = {"closed": False, **orjson.loads(data)}
        state: EngineState = _converter().structure(plain, EngineState)
    except Exception as error:  # cattrs and the classes' own validators raise many kinds
        raise CorruptError(
            f"the encoded state can't be read ({error}); use the version that wrote it, or newer"
        ) from error
    return state


@cache
def state_shape() -> str:
    """Return a SHA-256 (hex) over all classes, fields and types that a state is made of."""
    lines: set[str] = set()
    _describe(EngineState, lines)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _describe(kind: Any, lines: set[str]) -> None:
    for argument in get_args(kind):
        _describe(argument, lines)
    if isinstance(kind, type) and issubclass(kind, Enum):
        lines.add(f"{kind.__name__} {[member.value for member in kind]}")
    elif isinstance(kind, type) and attrs.has(kind):
        hints = typing.get_type_hints(kind)
        fields = [(field.name, str(hints[field.name])) for field in attrs.fields(kind)]
        line = f"{kind.__name__} {fields}"
        if line not in lines:
            lines.add(line)
            for name, _ in fields:
                _describe(hints[name], lines)


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_structure_hook(int, lambda value, _: load_integer(value))
    converter.register_unstructure_hook(int, dump_integer)
    for kind in (str, bool):
        converter.register_structure_hook(kind, load_exactly(kind))
        converter.register_unstructure_hook(kind, lambda value: value)
    converter.register_unstructure_hook_factory(_is_tuple)(_tuple_dumper)
    converter.register_structure_hook_factory(_is_tuple)(_tuple_loader)
    converter.register_unstructure_hook_factory(_is_mapping)(_mapping_dumper)
    converter.register_structure_hook_factory(_is_mapping)(_mapping_loader)
    converter.register_unstructure_hook_func(_is_operation, lambda one: _dump(one, converter))
    converter.register_structure_hook_func(_is_operation, lambda one, _: _load(one, converter))
    return converter


def _is_operation(kind: Any) -> bool:
    return set(get_args(kind)) == set(_OPERATIONS.values())


def _dump(operation: Operation, converter: cattrs.Converter) -> dict[str, Any]:
    return {"kind": _OPERATION_NAMES[type(operation)], **converter.unstructure(operation)}


def _load(plain: Mapping[str, Any], converter: cattrs.Converter) -> Operation:
    fields = dict(plain)
    operation: Operation = converter.structure(fields, _OPERATIONS[fields.pop("kind")])
    return operation


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _items(kind: Any) -> tuple[Any, ...] | None:
    """Return a fixed tuple's types, None for one of any length."""
    arguments = get_args(kind)
    return None if arguments[1:] == (...,) else arguments


def _tuple_dumper(kind: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    items = _items(kind)
    if items is None:
        dump = converter.get_unstructure_hook(get_args(kind)[0])
        return lambda value: [dump(one) for one in value]
    dumps = [converter.get_unstructure_hook(item) for item in items]
    return lambda value: [dump(one) for dump, one in zip(dumps, value, strict=True)]


def _tuple_loader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    items = _items(kind)

    def load(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise ValueError(f"{value!r} is not a list")
        kinds = items if items is not None else get_args(kind)[:1] * len(value)
        return tuple([converter.structure(x, k) for x, k in zip(value, kinds, strict=True)])

    return load


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _mapping_dumper(kind: Any, converter: cattrs.Converter) -> Callable[[Any], Any]:
    """Return what makes a list of pairs: JSON objects would lose order and keys' types."""
    key, value = (converter.get_unstructure_hook(one) for one in get_args(kind))
    return lambda mapping: [[key(name), value(one)] for name, one in mapping.items()]


def _mapping_loader(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    key, value = get_args(kind)

    def load(plain: Any, _: Any) -> Any:
        if type(plain) is not list:
            raise ValueError(f"{plain!r} is not a list of pairs")
        return {converter.structure(k, key): converter.structure(v, value) for k, v in plain}

    return load
