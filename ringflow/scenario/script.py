"""The language of scenario files: text to commands, and back with other outputs.

- A file begins with ``#`` lines that say its purpose in a sentence; ``#`` lines between commands
  are comments.
- A command is a line of words, perhaps lines of input, a line ``----``, and its expected output up
  to an empty line.
- A word is ``text``, ``key=text`` or either with the text in double quotes, as a JSON string. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, final

import attrs

from ringflow.errors import ScenarioError

RULER: Final = "----"
_KEY: Final = r"[A-Za-z_][\w-]*="
_WORD: Final = re.compile(rf'(?P<key>{_KEY})?(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<plain>[^\s"]*))')
_JSON: Final = json.JSONDecoder(strict=False)  # tabs may stand in texts as they are


@final
@attrs.frozen
class Word:
    """One word of a command line; ``column`` counts from 1, ``key`` is "" for a plain word."""

    key: str
    text: str
    column: int


@final
@attrs.frozen
class Command:
    """A command with what is expected of it.

    Attributes:
        words: at least one, the command's name.
        body: the input between the command line and the ruler, with its line ends.
        line: of the command, from 1.
        ruler_line: of the ``----``, from 1; the expected lines follow it.
    """

    words: tuple[Word, ...]
    body: str
    expected: tuple[str, ...]
    line: int
    ruler_line: int

    @property
    def name(self) -> str:
        return self.words[0].text


@final
@attrs.frozen
class Script:
    """A parsed scenario file; ``lines`` is its text."""

    path: str
    purpose: str
    commands: tuple[Command, ...]
    lines: tuple[str, ...]

    def with_outputs(self, outputs: Sequence[Sequence[str]]) -> str:
        """Return the file's text with other expected outputs, one for each command."""
        assert len(outputs) == len(self.commands)
        made, at = [], 0
        for command, output in zip(self.commands, outputs, strict=True):
            made += [*self.lines[at : command.ruler_line], *output]
            at = command.ruler_line + len(command.expected)
        return "\n".join([*made, *self.lines[at:]]).rstrip("\n") + "\n"


def parse(text: str, path: str = "<text>") -> Script:
    """Parse a scenario file's text; raises ``ScenarioError`` with line and column."""
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    purpose, at = _purpose(lines, path)
    commands = []
    while at < len(lines):
        line = lines[at]
        if not line.strip() or line.startswith("#"):
            at += 1
        elif line == RULER:
            raise ScenarioError(path, at + 1, 1, f"{RULER} without a command before it")
        else:
            command, at = _command(lines, at, path)
            commands.append(command)
    return Script(path, purpose, tuple(commands), tuple(lines))


def _purpose(lines: Sequence[str], path: str) -> tuple[str, int]:
    said = []
    for line in lines:
        if not line.startswith("#"):
            break
        said.append(line.lstrip("#").strip())
    if not "".join(said):
        raise ScenarioError(path, 1, 1, "the file says no purpose; begin it with '# ' and a line")
    return " ".join(said).strip(), len(said)


def _command(lines: Sequence[str], at: int, path: str) -> tuple[Command, int]:
    words = words_of(lines[at], at + 1, path)
    try:
        ruler = lines.index(RULER, at)
    except ValueError:
        raise ScenarioError(
            path, at + 1, 1, f"no {RULER} follows {words[0].text!r}; end the command with one"
        ) from None
    end = ruler + 1
    while end < len(lines) and lines[end].strip():
        end += 1
    body = "".join(line + "\n" for line in lines[at + 1 : ruler])
    return Command(words, body, tuple(lines[ruler + 1 : end]), at + 1, ruler + 1), end


def words_of(line: str, number: int, path: str) -> tuple[Word, ...]:
    """Return a line's words; raises ``ScenarioError`` where a quoted one is not well formed."""
    words, at = [], len(line) - len(line.lstrip())
    while at < len(line):
        found = _WORD.match(line, at)
        assert found is not None
        if found.end() < len(line) and not line[found.end()].isspace():
            column = line.index('"', at) + 1
            raise ScenarioError(
                path, number, column, 'a quote in a word; quote whole values: key="a b"'
            )
        key = (found["key"] or "").removesuffix("=")
        try:
            text = _JSON.decode(found["quoted"]) if found["quoted"] else found["plain"]
        except ValueError:
            raise ScenarioError(
                path, number, at + 1, "a backslash with something unknown; write two for one"
            ) from None
        words.append(Word(key, text, at + 1))
        at = found.end()
        at += len(line[at:]) - len(line[at:].lstrip())
    return tuple(words)


def quoted(text: str) -> str:
    """Return a text as one word, in quotes where it must be: ``words_of`` reads it back."""
    plain = text.isprintable() and not re.match(rf'$|.*[ "]|{_KEY}', text)
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
