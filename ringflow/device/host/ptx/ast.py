"""The syntax tree of a PTX module: plain values with line numbers.

- Names are unique within a function: registers and variables of nested scopes are renamed.
- A register's type is kept only as declared; instructions say how its bits are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

TYPE_BYTES: Mapping[str, int] = {
    **{f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64)},
    "f16": 2,
    "f32": 4,
    "f64": 8,
    "b128": 16,
    "pred": 1,
}
"""Sizes of the fundamental types, in bytes."""


@attrs.frozen
class Register:
    """A declared register."""

    name: str


@attrs.frozen
class Special:
    """A special register such as ``%tid.x``."""

    name: str


@attrs.frozen
class Immediate:
    """A literal: an integer, or the bits of a float with ``float_bits`` 32 or 64."""

    value: int
    float_bits: int = 0


@attrs.frozen
class Symbol:
    """The address of a variable or function, or a label, plus an offset in bytes."""

    name: str
    offset_bytes: int = 0


@attrs.frozen
class Address:
    """``[base + offset]``."""

    base: Register | Symbol | Immediate
    offset_bytes: int = 0


@attrs.frozen
class Vector:
    """``{a, b, ...}``; None stands for the sink ``_``."""

    items: tuple[Register | Immediate | None, ...]


@attrs.frozen
class Pair:
    """``%p|%q``: two destinations; None stands for the sink ``_``."""

    first: Register | None
    second: Register | None


@attrs.frozen
class Negated:
    """``!%p`` as an operand."""

    register: Register


Operand = Register | Special | Immediate | Symbol | Address | Vector | Pair | Negated


@attrs.frozen
class Guard:
    """The predicate before an instruction."""

    register: Register
    negated: bool


@attrs.frozen
class Instruction:
    """One instruction; ``parts`` is its opcode split at the dots."""

    opcode: str
    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Guard | None
    line: int


@attrs.frozen
class Call:
    """A call; ``target`` is a function's name or the register that holds its address."""

    target: str | Register
    results: tuple[str, ...]
    arguments: tuple[str | Register | Immediate, ...]
    prototype: str | None
    guard: Guard | None
    line: int


@attrs.frozen
class Label:
    """A position in a body."""

    name: str
    line: int


Statement = Instruction | Call | Label
Space = Literal["reg", "param", "local", "shared", "global", "const"]


@attrs.frozen
class Initialiser:
    """One element of a variable's initial value: bytes, or a symbol's address at an offset."""

    offset_bytes: int
    data: bytes
    symbol: str | None = None
    generic: bool = False


@attrs.frozen
class Variable:
    """A variable in a state space; ``size_bytes`` 0 is an unsized (dynamic) array."""

    name: str
    space: Space
    size_bytes: int
    align_bytes: int
    initial: tuple[Initialiser, ...] = ()
    external: bool = False
    type: str = "b8"
    line: int = 0


@attrs.frozen
class Prototype:
    """The types of a function's results and parameters, as sizes in bytes."""

    results: tuple[Variable, ...]
    parameters: tuple[Variable, ...]


@attrs.frozen
class Function:
    """An ``.entry`` or ``.func``; ``body`` is None for a declaration.

    ``targets`` are the lists of labels for ``brx.idx``.
    """

    name: str
    entry: bool
    prototype: Prototype
    body: tuple[Statement, ...] | None
    registers: Mapping[str, str]
    variables: Mapping[str, Variable]
    targets: Mapping[str, tuple[str, ...]]
    prototypes: Mapping[str, Prototype]
    external: bool
    line: int


@attrs.frozen
class Module:
    """One PTX text."""

    version: str
    target: str
    variables: Mapping[str, Variable]
    functions: Mapping[str, Function]
