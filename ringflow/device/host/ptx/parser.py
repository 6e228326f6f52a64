"""PTX tokens to the syntax tree.

- One pass, no look-back; scopes rename what they declare, so that names are unique in a function.
- Unknown directives are refused by name; unknown opcodes are the emitter's to refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import attrs

from ringflow.device.host.ptx.ast import (
    TYPE_BYTES,
    Call,
    Function,
    Guard,
    Immediate,
    Initialiser,
    Instruction,
    Label,
    Module,
    Prototype,
    Register,
    Space,
    Statement,
    Symbol,
    Variable,
)
from ringflow.device.host.ptx.lexer import TokenStream, tokens_of
from ringflow.device.host.ptx.operands import number_of, operand_of, split_at_commas
from ringflow.errors import PtxSyntaxError, UnsupportedPtxError

_LINKAGE = frozenset({".visible", ".extern", ".weak", ".common"})
_SPACES = frozenset({".reg", ".param", ".local", ".shared", ".global", ".const"})
_BOUNDS = frozenset(
    {".maxntid", ".reqntid", ".minnctapersm", ".maxnctapersm", ".maxnreg", ".pragma", ".noreturn"}
)
_ODD_OPERANDS = frozenset(
    {"tex", "tld4", "txq", "suld", "sust", "sured", "suq", "wmma", "mma", "wgmma", "ldmatrix"}
    | {"stmatrix", "mbarrier", "cp", "multimem", "tcgen05", "tensormap", "istypep"}
)
"""Families that the host device lacks and whose operands have forms of their own."""
_LINE_DIRECTIVES = frozenset({".loc", ".file"})


def parse(text: str) -> Module:
    """Return the syntax tree of ``text``.

    Raises:
        PtxSyntaxError: the text is not well formed.
        UnsupportedPtxError: it uses a directive that the host device does not have.
    """
    parser = _Parser(*tokens_of(text))
    try:
        return parser.module()
    except (IndexError, KeyError, ValueError) as error:
        raise PtxSyntaxError(parser.line, f"cannot read the statement ({error})") from None


@attrs.define
class _Scope:
    """What the function being parsed has declared so far."""

    registers: dict[str, str] = attrs.Factory(dict)
    variables: dict[str, Variable] = attrs.Factory(dict)
    targets: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    prototypes: dict[str, Prototype] = attrs.Factory(dict)
    names: list[dict[str, str]] = attrs.Factory(lambda: [{}])
    count: int = 0

    def declare(self, name: str, kind: str) -> str:
        """Give ``name`` its unique name in this function; ``kind`` is "r" or "v"."""
        unique = name
        if name in self.registers or name in self.variables:
            self.count += 1
            unique = f"{name}${self.count}"
        self.names[-1][name] = kind + unique
        return unique

    def lookup(self, name: str) -> str | None:
        for names in reversed(self.names):
            found = names.get(name)
            if found is not None:
                return found
        return None


def _register_names(tokens: list[str]) -> list[str]:
    """Return the names that ``%r<3>, %q`` declares."""
    names: list[str] = []
    for group in split_at_commas(tokens):
        if len(group) == 4 and group[1] == "<":
            names += [f"{group[0]}{index}" for index in range(int(group[2]))]
        else:
            names.append(group[0])
    return names


class _DeclarationParser(TokenStream):
    """Reads variables."""

    def _attributes(self) -> tuple[int, str]:
        """Read ``.align n``, ``.ptr ...``, vector widths and the type; return align and type."""
        align = 0
        vector = 1
        while True:
            line = self.line
            token = self.next()
            if token == ".align":
                align = self.integer()
            elif token in (".v2", ".v4"):
                vector = int(token[2])
            elif token == ".attribute":
                self.until(")")
            elif token[1:] in TYPE_BYTES:
                if vector != 1:
                    raise UnsupportedPtxError(f".v{vector}", line, "in a declaration")
                return align or TYPE_BYTES[token[1:]], token[1:]
            else:
                raise UnsupportedPtxError(token, line, "in a declaration")

    def array_bytes(self, element_bytes: int) -> int:
        """Read ``[n][m]...``; an unsized dimension gives 0."""
        size = element_bytes
        while self.peek() == "[":
            self.next()
            if self.peek() == "]":
                size = 0
            else:
                size *= self.integer()
            self.expect("]")
        return size

    def variables(self, space: Space, external: bool) -> list[Variable]:
        line = self.line
        align, kind = self._attributes()
        found = []
        while True:
            name = self.next()
            size = self.array_bytes(TYPE_BYTES[kind])
            initial: tuple[Initialiser, ...] = ()
            if self.peek() == "=":
                self.next()
                initial, count = self._initialiser(kind)
                size = size or count
            found.append(Variable(name, space, size, align, initial, external, kind, line))
            if self.peek() == ",":
                self.next()
                continue
            self.expect(";")
            return found

    def _initialiser(self, kind: str) -> tuple[tuple[Initialiser, ...], int]:
        """Read a value or a brace list of values of type ``kind``; return it and its bytes."""
        items: list[Initialiser] = []
        element_bytes = TYPE_BYTES[kind]
        position = depth = 0
        while True:
            token = self.peek()
            if token == "{":
                depth += 1
                self.next()
            elif token == "}":
                depth -= 1
                self.next()
            elif token == ",":
                if depth == 0:
                    break
                self.next()
            elif token == ";":
                break
            else:
                items.append(self._element(position, element_bytes))
                position += element_bytes
            if depth == 0:
                break
        return tuple(items), position

    def _element(self, position: int, element_bytes: int) -> Initialiser:
        line = self.line
        generic = self.peek() == "generic"
        if generic:
            self.next()
            self.expect("(")
        word = self.peek()
        if word[0].isdigit() or word == "-":
            negative = word == "-"
            if negative:
                self.next()
            number = number_of(self.next(), line)
            value = -number.value if negative else number.value
            data = (value % (1 << (8 * element_bytes))).to_bytes(element_bytes, "little")
            return Initialiser(position, data)
        name = self.next()
        if generic:
            self.expect(")")
        offset = 0
        if self.peek() == "+":
            self.next()
            offset = self.integer()
        if element_bytes != 8:
            raise UnsupportedPtxError(name, line, "an address in an array of narrow elements")
        return Initialiser(position, offset.to_bytes(8, "little", signed=True), name, generic)


class _Parser(_DeclarationParser):
    def __init__(self, tokens: list[str], lines: list[int]) -> None:
        super().__init__(tokens, lines)
        self.scope = _Scope()

    # -- module ---------------------------------------------------------------------------------

    def module(self) -> Module:
        version = target = ""
        variables: dict[str, Variable] = {}
        functions: dict[str, Function] = {}
        while self.at < len(self.tokens):
            line = self.line
            token = self.peek()
            if token == ".version":
                self.next()
                version = self.next()
            elif token == ".target":
                self.next()
                target = self.next()
                while self.peek() == ",":
                    self.next()
                    self.next()
            elif token == ".address_size":
                self.next()
                if self.next() != "64":
                    raise UnsupportedPtxError(".address_size", line, "only 64 is")
            elif token in _LINE_DIRECTIVES:
                self.skip_line()
            elif token == ".section":
                self.until("}")
            elif token == ";":
                self.next()
            else:
                self._definition(variables, functions)
        return Module(version, target, variables, functions)

    def _definition(self, variables: dict[str, Variable], functions: dict[str, Function]) -> None:
        line = self.line
        linkage = set()
        while self.peek() in _LINKAGE:
            linkage.add(self.next())
        external = ".extern" in linkage
        directive = self.next()
        if directive in (".entry", ".func"):
            function = self._function(directive == ".entry", external, line)
            known = functions.get(function.name)
            if known is None or known.body is None:
                functions[function.name] = function
        elif directive in (".global", ".const", ".shared"):
            for variable in self.variables(cast(Space, directive[1:]), external):
                variables[variable.name] = variable
        else:
            raise UnsupportedPtxError(directive, line)

    # -- functions ------------------------------------------------------------------------------

    def _parameters(self) -> tuple[Variable, ...]:
        if self.peek() != "(":
            return ()
        self.expect("(")
        found: list[Variable] = []
        while self.peek() != ")":
            line = self.line
            space = self.next()
            if space not in (".param", ".reg"):
                raise PtxSyntaxError(line, f"expected .param or .reg, found {space!r}")
            found.append(self._parameter(cast(Space, space[1:]), line))
            if self.peek() == ",":
                self.next()
        self.expect(")")
        return tuple(found)

    def _parameter(self, space: Space, line: int) -> Variable:
        align = 0
        kind = ""
        while self.peek()[0] == ".":
            token = self.next()
            if token == ".align":
                align = max(align, self.integer()) if not kind else align
                if kind:
                    self.integer()
            elif token[1:] in TYPE_BYTES:
                kind = token[1:]
            elif token == ".ptr":
                while self.peek() in (".global", ".shared", ".const", ".local", ".align"):
                    if self.next() == ".align":
                        self.integer()
            else:
                raise UnsupportedPtxError(token, line, "in a parameter")
        if not kind:
            raise PtxSyntaxError(line, "a parameter has no type")
        name = self.next() if self.peek() not in (",", ")") else "_"
        size = self.array_bytes(TYPE_BYTES[kind])
        return Variable(name, space, size, align or TYPE_BYTES[kind], type=kind, line=line)

    def _function(self, entry: bool, external: bool, line: int) -> Function:
        self.scope = _Scope()
        results = () if entry else self._parameters()
        name = self.next()
        prototype = Prototype(results, self._parameters())
        for variable in (*prototype.results, *prototype.parameters):
            kind = "r" if variable.space == "reg" else "v"
            unique = self.scope.declare(variable.name, kind)
            if kind == "r":
                self.scope.registers[unique] = variable.type
            else:
                self.scope.variables[unique] = variable
        while self.peek() in _BOUNDS:
            if self.next() == ".pragma":
                self.until(";")
            while self.peek() and (self.peek()[0].isdigit() or self.peek() == ","):
                self.next()
        body: list[Statement] | None = None
        if self.peek() == ";":
            self.next()
        elif self.peek() == "{":
            self.next()
            body = []
            self._body(body)
        else:
            raise UnsupportedPtxError(self.peek(), self.line, "after a function's parameters")
        scope = self.scope
        return Function(
            name,
            entry,
            prototype,
            None if body is None else tuple(body),
            scope.registers,
            scope.variables,
            scope.targets,
            scope.prototypes,
            external,
            line,
        )

    def _body(self, body: list[Statement]) -> None:
        """Read statements up to the brace that closes the scope."""
        while True:
            line = self.line
            token = self.next()
            if token == "}":
                return
            if token == "{":
                self.scope.names.append({})
                self._body(body)
                self.scope.names.pop()
            elif token in _SPACES:
                self._declaration(token[1:])
            elif token in _LINE_DIRECTIVES:
                self.at -= 1
                self.skip_line()
            elif token == ".pragma":
                self.until(";")
            elif token == ";":
                continue
            elif token[0] == "." and token != ".":
                raise UnsupportedPtxError(token, line)
            elif self.peek() == ":":
                self.next()
                self._label(token, line, body)
            else:
                self.at -= 1
                body.append(self._statement(line))

    def _label(self, name: str, line: int, body: list[Statement]) -> None:
        if self.peek() == ".branchtargets":
            self.next()
            self.scope.targets[name] = tuple(t for t in self.until(";") if t != ",")
        elif self.peek() == ".callprototype":
            self.next()
            results = self._parameters()
            self.next()
            parameters = self._parameters()
            self.until(";")
            self.scope.prototypes[name] = Prototype(results, parameters)
        elif self.peek() == ".calltargets":
            self.until(";")
        else:
            body.append(Label(name, line))

    def _declaration(self, space: str) -> None:
        if space == "reg":
            line = self.line
            kind = self.next()[1:]
            if kind not in TYPE_BYTES:
                raise UnsupportedPtxError(f".{kind}", line, "as a register")
            for name in _register_names(self.until(";")):
                self.scope.registers[self.scope.declare(name, "r")] = kind
            return
        for variable in self.variables(cast(Space, space), False):
            unique = self.scope.declare(variable.name, "v")
            self.scope.variables[unique] = attrs.evolve(variable, name=unique)

    # -- statements -----------------------------------------------------------------------------

    def _register(self, name: str, line: int) -> Register:
        found = self.scope.lookup(name)
        if found is None or found[0] != "r":
            raise PtxSyntaxError(line, f"{name!r} is not a declared register")
        return Register(found[1:])

    def _statement(self, line: int) -> Statement:
        tokens = self.until(";")
        guard = None
        if tokens[0] == "@":
            negated = tokens[1] == "!"
            guard = Guard(self._register(tokens[2 if negated else 1], line), negated)
            tokens = tokens[3 if negated else 2 :]
        if not tokens:
            raise PtxSyntaxError(line, "an instruction is missing")
        opcode = tokens[0]
        if opcode in ("call", "call.uni"):
            return self._call(tokens[1:], guard, line)
        if opcode.split(".")[0] in _ODD_OPERANDS:
            raise UnsupportedPtxError(opcode, line)
        lookup = self.scope.lookup
        operands = tuple(operand_of(group, lookup, line) for group in split_at_commas(tokens[1:]))
        return Instruction(opcode, tuple(opcode.split(".")), operands, guard, line)

    def _call(self, tokens: list[str], guard: Guard | None, line: int) -> Call:
        groups = split_at_commas(tokens)
        results: tuple[str, ...] = ()
        if groups and groups[0][0] == "(":
            results = tuple(self._unique(t[0]) for t in split_at_commas(groups[0][1:-1]))
            groups = groups[1:]
        if not groups:
            raise PtxSyntaxError(line, "a call names no function")
        name = groups[0][0]
        found = self.scope.lookup(name)
        target = Register(found[1:]) if found is not None and found[0] == "r" else name
        arguments: tuple[str | Register | Immediate, ...] = ()
        if len(groups) > 1 and groups[1][0] == "(":
            arguments = tuple(
                self._argument(group, line) for group in split_at_commas(groups[1][1:-1])
            )
        prototype = groups[2][0] if len(groups) > 2 else None
        return Call(target, results, arguments, prototype, guard, line)

    def _unique(self, name: str) -> str:
        found = self.scope.lookup(name)
        return name if found is None else found[1:]

    def _argument(self, tokens: Sequence[str], line: int) -> str | Register | Immediate:
        operand = operand_of(tokens, self.scope.lookup, line)
        if isinstance(operand, Symbol):
            return operand.name
        if isinstance(operand, Register | Immediate):
            return operand
        raise PtxSyntaxError(line, f"{' '.join(tokens)!r} cannot be an argument")
