"""Functions made for one event type each: its events to plain JSON values, and back.

- They take what nearly every event holds: values of exactly the declared types, integers up to
  2**53, finite floats. For anything else they return None, and ``values`` writes, reads or
  refuses it: what is right, and what an error says, is decided there alone.
- Both ways lead to equal bytes and equal events; a test compares them for every event type.
- A type with a field of a kind that is not listed here has none of them.
- The general way calls a function for each field and each item: four times the time.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import attrs

from ringflow.events.values import SAFE_INTEGER

Writer = Callable[[Any], dict[str, Any] | None]
Reader = Callable[[Mapping[str, Any]], Any]


class _Form(NamedTuple):
    """Python source for a value ``{v}``: what must hold, and what it becomes."""

    to_write: str
    written: str
    to_read: str
    read: str


def _same(condition: str) -> _Form:
    return _Form(condition, "{v}", condition, "{v}")


_INTEGER: Final = "type({v}) is int and LOW <= {v} <= HIGH"
_FORMS: Final[Mapping[Any, _Form]] = {
    int: _same(_INTEGER),
    str: _same("type({v}) is str"),
    bool: _same("type({v}) is bool"),
    float: _same("type({v}) is float and -INFINITY < {v} < INFINITY"),
    bytes: _Form(
        "type({v}) is bytes",
        "to_base64({v}, newline=False).decode()",
        "type({v}) is str",
        "from_base64({v}, strict_mode=True)",
    ),
}
_NAMES: Final[Mapping[str, Any]] = {
    "LOW": -SAFE_INTEGER,
    "HIGH": SAFE_INTEGER,
    "INFINITY": float("inf"),
    "to_base64": binascii.b2a_base64,
    "from_base64": binascii.a2b_base64,
}


class _Field(NamedTuple):
    """Source for one field, whose value is in the variable ``v``.

    Attributes:
        condition: an expression that must be true.
        loop: statements that return None for a wrong item; may be empty.
        result: an expression.
    """

    condition: str
    loop: str
    result: str


def _field(hint: Any, v: str, *, read: bool) -> _Field | None:
    """Return the source for a field of type ``hint``, or None for a type of another kind."""
    if (form := _FORMS.get(hint)) is not None:
        condition, result = (form.to_read, form.read) if read else (form.to_write, form.written)
        return _Field(condition.format(v=v), "", result.format(v=v))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and arguments[1:] == (...,) and arguments[0] in _FORMS:
        item = _field(arguments[0], "one", read=read)
        assert item is not None
        loop = f"  for one in {v}:\n    if not ({item.condition}): return None\n"
        result = v if item.result == "one" else f"[{item.result} for one in {v}]"
        return _Field(
            f"type({v}) is {'list' if read else 'tuple'}",
            loop,
            f"tuple({result})" if read else result,
        )
    if origin is Mapping and arguments == (str, str):
        loop = (
            f"  for key, one in {v}.items():\n"
            "    if not (type(key) is str and type(one) is str): return None\n"
        )
        return _Field(f"type({v}) is dict", loop, f"{{**{v}}}" if read else v)
    return None


def _fields(kind: type[Any], *, read: bool) -> dict[str, _Field] | None:
    """Return the source for each field by name, variables ``v0`` and on; in canonical order."""
    hints = get_type_hints(kind)
    fields: dict[str, _Field] = {}
    for number, name in enumerate(sorted(one.name for one in attrs.fields(kind))):
        field = _field(hints[name], f"v{number}", read=read)
        if field is None:
            return None
        fields[name] = field
    return fields


def _made(kind: type[Any], source: str) -> Callable[[Any], Any]:
    names = {**_NAMES, "Kind": kind}
    exec(compile(source, f"<generated for {kind.__qualname__}>", "exec"), names)
    made: Callable[[Any], Any] = names["made"]
    return made


@cache
def writer_of(kind: type[Any]) -> Writer | None:
    """Return what gives the JSON object of an event of ``kind``; tuples stand for its arrays."""
    fields = _fields(kind, read=False)
    if fields is None:
        return None
    members = {name: field.result for name, field in fields.items()}
    members["type"] = repr(kind.wire_name)
    lines = [f"  v{number} = event.{name}" for number, name in enumerate(fields)]
    lines.append(f"  if not ({_all(fields)}): return None")
    lines += [field.loop.rstrip() for field in fields.values() if field.loop]
    shown = ", ".join(f"{name!r}: {members[name]}" for name in sorted(members))
    return _made(kind, "\n".join(["def made(event):", *lines, f"  return {{{shown}}}"]))


@cache
def reader_of(kind: type[Any]) -> Reader | None:
    """Return what gives the event of a JSON object with ``type``; it may raise as ``kind`` does."""
    fields = _fields(kind, read=True)
    if fields is None:
        return None
    lines = [
        f"  if len(plain) != {len(fields) + 1}: return None",
        "  try:",
        *[f"    v{number} = plain[{name!r}]" for number, name in enumerate(fields)],
        "    plain['type']",
        "  except KeyError: return None",
        f"  if not ({_all(fields)}): return None",
        *[field.loop.rstrip() for field in fields.values() if field.loop],
    ]
    given = ", ".join(f"{name}={field.result}" for name, field in fields.items())
    return _made(kind, "\n".join(["def made(plain):", *lines, f"  return Kind({given})"]))


def _all(fields: Mapping[str, _Field]) -> str:
    return " and ".join(field.condition for field in fields.values()) or "True"
