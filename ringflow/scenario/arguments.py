"""A command's words as values, checked against the command's usage line.

- Usage: ``launch KERNEL [on=DEVICE]``: capitals are words to give, brackets what may be left out,
  ``[NAME...]`` any number, ``[FIELD=...]`` any key.
- Numbers and times count forward: below 0 is only what steps a clock back.
- Every error names the column. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar, final

import attrs

from ringflow.errors import ScenarioError
from ringflow.scenario.script import Command, Word

T = TypeVar("T")

_TIMES: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
ANY_KEY: Final = "FIELD"


@final
@attrs.frozen
class Usage:
    """What a command takes.

    Attributes:
        needed, optional: names of its plain words, in order.
        rest: the name of any number of further plain words, or "".
        keys: of its options; ``ANY_KEY`` among them allows any.
        needed_keys: those of them that have to be given.
    """

    text: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    rest: str
    keys: frozenset[str]
    needed_keys: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Usage:
        needed, optional, rest, keys, needed_keys = [], [], "", set(), []
        for part in re.findall(r"\[[^]]*\]|\S+", text)[1:]:
            inner = part.strip("[]")
            if "=" in inner:
                keys.add(key := inner.split("=")[0])
                needed_keys += [] if part.startswith("[") else [key]
            elif inner.endswith("..."):
                rest = inner.removesuffix("...")
            elif part.startswith("["):
                optional.append(inner)
            else:
                needed.append(inner)
        return cls(text, tuple(needed), tuple(optional), rest, frozenset(keys), tuple(needed_keys))


@final
class Arguments:
    """The words of one command, by the names of its usage."""

    def __init__(self, command: Command, usage: Usage, path: str) -> None:
        self.command = command
        self.path = path
        self._usage = usage
        self.plain: dict[str, Word] = {}
        self.keyed: dict[str, Word] = {}
        self.rest: list[Word] = []
        names = [*usage.needed, *usage.optional]
        for word in command.words[1:]:
            if word.key:
                self._take_keyed(word)
            elif len(self.plain) < len(names):
                self.plain[names[len(self.plain)]] = word
            elif usage.rest:
                self.rest.append(word)
            else:
                raise self.error(f"a word too much; usage: {usage.text}", word)
        if len(self.plain) < len(usage.needed):
            missing = usage.needed[len(self.plain)]
            raise self.error(f"no {missing}; usage: {usage.text}", command.words[-1])
        for key in usage.needed_keys:
            if key not in self.keyed:
                raise self.error(f"no {key}=; usage: {usage.text}", command.words[-1])

    def _take_keyed(self, word: Word) -> None:
        if word.key not in self._usage.keys and ANY_KEY not in self._usage.keys:
            raise self.error(f"no option {word.key!r}; usage: {self._usage.text}", word)
        if word.key in self.keyed:
            raise self.error(f"option {word.key!r} is given twice", word)
        self.keyed[word.key] = word

    def error(self, problem: str, word: Word | None = None) -> ScenarioError:
        """Return an error that points at a word, or at the command."""
        column = (word or self.command.words[0]).column
        return ScenarioError(self.path, self.command.line, column, problem)

    @property
    def others(self) -> dict[str, Word]:
        """The options whose keys the usage does not name."""
        return {key: word for key, word in self.keyed.items() if key not in self._usage.keys}

    def word(self, name: str) -> Word | None:
        return self.plain.get(name) or self.keyed.get(name)

    def text(self, name: str, default: str = "") -> str:
        word = self.word(name)
        return default if word is None else word.text

    def integer(self, name: str, default: int = 0) -> int:
        return self._value(name, default, _whole, "a whole number from 0 on")

    def number(self, name: str, default: float = 0.0) -> float:
        return self._value(name, default, float, "a number")

    def duration_s(self, name: str, default: float = 0.0) -> float:
        return self._value(name, default, _forward_s, "a time such as 10ms, 5s or 1h")

    def step_s(self, name: str) -> float:
        """Return by how many seconds a clock is stepped, 0.0 for a word that is not given."""
        return self._value(name, 0.0, duration_s, "a time such as 5s or, back, -1h")

    def size_bytes(self, name: str, default: int = 0) -> int:
        return self._value(name, default, size_bytes, "a size such as 64KiB or 1GiB")

    def output(self, name: str) -> tuple[int, int] | None:
        """Return an output's sequence and index, as in ``4.0``; None where none is given."""
        return self._value(name, None, _output, "an output such as 4.0")

    def payload(self, name: str) -> bytes:
        return self._value(name, b"", bytes.fromhex, "hexadecimal bytes")

    def choice(self, name: str, known: dict[str, T], default: T) -> T:
        """Return what a word stands for."""
        return self._value(name, default, known.__getitem__, f"one of {', '.join(known)}")

    def _value(self, name: str, default: T, convert: Callable[[str], T], what: str) -> T:
        word = self.word(name)
        if word is None:
            return default
        try:
            return convert(word.text)
        except (ValueError, KeyError):
            raise self.error(f"{name} is {word.text!r}, not {what}", word) from None


def _output(text: str) -> tuple[int, int] | None:
    sequence, _, index = text.partition(".")
    return int(sequence), int(index)


def _whole(text: str) -> int:
    if (value := int(text, 0)) < 0:
        raise ValueError(text)
    return value


def _forward_s(text: str) -> float:
    if (value := duration_s(text)) < 0:
        raise ValueError(text)
    return value


def duration_s(text: str) -> float:
    """Return seconds; raises ``ValueError``."""
    found = re.fullmatch(r"(-?[\d.]+)(ns|us|ms|s|m|h|d)", text)
    if found is None:
        raise ValueError(text)
    return float(found[1]) * _TIMES[found[2]]


def size_bytes(text: str) -> int:
    """Return bytes; raises ``ValueError``."""
    found = re.fullmatch(r"(\d+)(B|KiB|MiB|GiB|)", text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * _SIZES[found[2]]
