"""Cut PTX text into words and punctuation, with their line numbers."""

from __future__ import annotations

import re

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
