"""Operands of instructions: numbers, registers, addresses and vectors."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

from ringflow.device.host.ptx.ast import (
    Address,
    Immediate,
    Negated,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)
from ringflow.errors import PtxSyntaxError

_INTEGER = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]+|[0-9]+)U?")
_FLOAT = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][0-9]+)?")

Lookup = Callable[[str], str | None]
"""Maps a name as written to its unique register or variable name, None where undeclared."""


def number_of(word: str, line: int) -> Immediate:
    """Return the literal ``word``; floats become their bits."""
    if word[:2] in ("0f", "0F") and len(word) == 10:
        return Immediate(int(word[2:], 16), 32)
    if word[:2] in ("0d", "0D") and len(word) == 18:
        return Immediate(int(word[2:], 16), 64)
    match = _INTEGER.fullmatch(word)
    if match is not None:
        digits = match.group(1)
        if digits[:2] in ("0x", "0X", "0b", "0B"):
            return Immediate(int(digits, 0))
        return Immediate(int(digits, 8 if digits[0] == "0" else 10))
    if _FLOAT.fullmatch(word):
        return Immediate(int.from_bytes(struct.pack("<d", float(word)), "little"), 64)
    raise PtxSyntaxError(line, f"{word!r} is not a number")


def negative(number: Immediate) -> Immediate:
    """Return the literal with its sign changed."""
    if number.float_bits:
        return Immediate(number.value ^ (1 << (number.float_bits - 1)), number.float_bits)
    return Immediate(-number.value)


def _name(word: str, lookup: Lookup, line: int) -> Register | Special | Immediate | Symbol:
    first = word[0]
    if first.isdigit():
        return number_of(word, line)
    found = lookup(word)
    if found is not None:
        return Register(found[1:]) if found[0] == "r" else Symbol(found[1:])
    if first == "%":
        return Special(word)
    if word == "WARP_SZ":
        return Immediate(32)
    return Symbol(word)


def _scalar(tokens: Sequence[str], lookup: Lookup, line: int) -> Operand:
    if len(tokens) == 1:
        return _name(tokens[0], lookup, line)
    if tokens[0] == "-" and len(tokens) == 2:
        return negative(number_of(tokens[1], line))
    if tokens[0] == "!" and len(tokens) == 2:
        register = _name(tokens[1], lookup, line)
        if isinstance(register, Register):
            return Negated(register)
    if len(tokens) in (3, 4) and tokens[1] in "+-":
        base = _name(tokens[0], lookup, line)
        offset = _offset(tokens[1:], line)
        if isinstance(base, Symbol):
            return Symbol(base.name, offset)
    raise PtxSyntaxError(line, f"cannot read the operand {' '.join(tokens)!r}")


def _offset(tokens: Sequence[str], line: int) -> int:
    """Return the value of ``+ 4``, ``+ - 4`` or ``- 4``."""
    sign = -1 if tokens.count("-") % 2 else 1
    return sign * number_of(tokens[-1], line).value


def _address(tokens: Sequence[str], lookup: Lookup, line: int) -> Address:
    base = _name(tokens[0], lookup, line) if tokens[0] not in "+-" else Immediate(0)
    rest = tokens[1:] if tokens[0] not in "+-" else tokens
    if isinstance(base, Special) or (rest and len(rest) not in (2, 3)):
        raise PtxSyntaxError(line, f"cannot read the address {' '.join(tokens)!r}")
    return Address(base, _offset(rest, line) if rest else 0)


def _destination(word: str, lookup: Lookup, line: int) -> Register | None:
    if word == "_":
        return None
    operand = _name(word, lookup, line)
    if not isinstance(operand, Register):
        raise PtxSyntaxError(line, f"{word!r} is not a declared register")
    return operand


def split_at_commas(tokens: Sequence[str]) -> list[Sequence[str]]:
    """Split at the commas outside of brackets."""
    groups: list[Sequence[str]] = []
    depth = start = 0
    for index, token in enumerate(tokens):
        if token in ("(", "[", "{"):
            depth += 1
        elif token in (")", "]", "}"):
            depth -= 1
        elif token == "," and depth == 0:
            groups.append(tokens[start:index])
            start = index + 1
    if tokens:
        groups.append(tokens[start:])
    return groups


def operand_of(tokens: Sequence[str], lookup: Lookup, line: int) -> Operand:
    """Return the operand that ``tokens`` spell.

    Raises:
        PtxSyntaxError: they spell none.
    """
    if not tokens:
        raise PtxSyntaxError(line, "an operand is missing")
    if tokens[0] == "[":
        return _address(tokens[1:-1], lookup, line)
    if tokens[0] == "{":
        items: list[Register | Immediate | None] = []
        for group in split_at_commas(tokens[1:-1]):
            item = None if group == ["_"] else _scalar(group, lookup, line)
            if not isinstance(item, Register | Immediate | None):
                raise PtxSyntaxError(line, f"{' '.join(group)!r} cannot stand in a vector")
            items.append(item)
        return Vector(tuple(items))
    if len(tokens) == 3 and tokens[1] == "|":
        return Pair(_destination(tokens[0], lookup, line), _destination(tokens[2], lookup, line))
    if tokens[0] == "_" and len(tokens) == 1:
        return Pair(None, None)
    return _scalar(tokens, lookup, line)
