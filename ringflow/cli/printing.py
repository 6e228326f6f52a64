"""What commands print: names from files that nobody vouches for, columns, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringflow.events.values import canonical_json, dump_integer


def printable(text: str, *, limit: int = 0, keep: str = "") -> str:
    """Return ``text`` with everything escaped that could steer a terminal.

    Args:
        limit: longer text is cut and ends in "..."; 0 for none.
        keep: characters that stay as they are, such as line feeds.
    """
    if limit and len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode()
        for one in text
    )


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Return the rows as lines, each column as wide as its widest text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent
        + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def json_line(value: object) -> str:
    """Return ``value`` as JSON; integers beyond 2**53 are strings, as in the journal."""
    return canonical_json(_jsonable(value)).decode()


def _jsonable(value: object) -> object:
    match value:
        case bool() | float() | None:
            return value
        case int():
            return dump_integer(int(value))
        case Mapping():
            return {_text(str(key)): _jsonable(one) for key, one in value.items()}
        case list() | tuple():
            return [_jsonable(one) for one in value]
        case _:
            return _text(str(value))


def _text(text: str) -> str:
    """Return text without the half characters that stand for a path's undecodable bytes."""
    return text.encode("utf-8", "replace").decode()
