"""Cut PTX text into words and punctuation, with their line numbers."""

from __future__ import annotations

import re

from ringflow.device.host.ptx.operands import number_of
from ringflow.errors import PtxSyntaxError

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(
    r"\n"  # counted
    r"|[%.$_A-Za-z0-9][\w$%]*(?:\.[\w$%]+|::\w+)*"  # words: opcodes, names, numbers
    r'|"[^"\n]*"'
    r"|[-+@!,;:|=~\[\](){}<>]"
    r"|[^\s]"  # anything else is an error
)
_PUNCTUATION = frozenset("-+@!,;:|=~[](){}<>")


def tokens_of(text: str) -> tuple[list[str], list[int]]:
    """Return the tokens of ``text`` and the line (from 1) of each.

    Raises:
        PtxSyntaxError: a character that PTX does not have.
    """
    text = _COMMENT.sub(lambda match: "\n" * match.group().count("\n"), text).rstrip("\0")
    tokens: list[str] = []
    lines: list[int] = []
    line = 1
    for token in _TOKEN.findall(text):
        if token == "\n":
            line += 1
            continue
        tokens.append(token)
        lines.append(line)
        if (
            len(token) == 1
            and token not in _PUNCTUATION
            and not (token.isalnum() or token in "_%$.")
        ):
            raise PtxSyntaxError(line, f"unexpected character {token!r}")
    return tokens, lines


class TokenStream:
    """Tokens with a position."""

    def __init__(self, tokens: list[str], lines: list[int]) -> None:
        self.tokens = tokens
        self.lines = lines
        self.at = 0

    @property
    def line(self) -> int:
        return self.lines[min(self.at, len(self.lines) - 1)] if self.lines else 1

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        if self.at >= len(self.tokens):
            raise PtxSyntaxError(self.line, "the text ends in the middle of a statement")
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, token: str) -> None:
        line = self.line
        got = self.next()
        if got != token:
            raise PtxSyntaxError(line, f"expected {token!r}, found {got!r}")

    def until(self, end: str) -> list[str]:
        """Take the tokens before ``end``, and ``end``."""
        try:
            stop = self.tokens.index(end, self.at)
        except ValueError:
            raise PtxSyntaxError(self.line, f"no {end!r} follows") from None
        taken = self.tokens[self.at : stop]
        self.at = stop + 1
        return taken

    def skip_line(self) -> None:
        line = self.line
        while self.at < len(self.tokens) and self.lines[self.at] == line:
            self.at += 1

    def integer(self) -> int:
        sign = 1
        if self.peek() == "-":
            self.next()
            sign = -1
        line = self.line
        return sign * number_of(self.next(), line).value
