"""The emitter: registers, operands, blocks; what every family of instructions builds on.

- A register is one integer alloca of its declared width; floats are read by bitcast.
- ``read`` extends or truncates to the wanted width, ``write`` to the register's.
- Subclasses say where special registers, parameters, shared and local memory are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping

from ringflow.device.host.ptx.ast import (
    TYPE_BYTES,
    Function,
    Guard,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    Special,
    Symbol,
    Variable,
)
from ringflow.errors import PtxSyntaxError, UnsupportedPtxError

FLOAT_NAMES: Mapping[int, str] = {16: "half", 32: "float", 64: "double"}


def bits_of(kind: str) -> int:
    """Return the width of a fundamental type in bits; a predicate has 1."""
    return 1 if kind == "pred" else TYPE_BYTES[kind] * 8


def _refloat(word: int, of: int, to: int) -> int:
    """Return the bits of a float literal in another width, rounded to nearest even."""
    formats = {32: "<f", 64: "<d"}
    if to not in formats:
        return word
    exact = struct.unpack(formats[of], word.to_bytes(of // 8, "little"))[0]
    try:
        return int.from_bytes(struct.pack(formats[to], exact), "little")
    except OverflowError:
        return 0xFF800000 if exact < 0 else 0x7F800000


class ModuleContext:
    """What all functions of one LLVM module share: declarations, globals, function names."""

    def __init__(
        self,
        variables: Mapping[str, Variable],
        functions: Mapping[str, Function],
        given: frozenset[str] = frozenset(),
        inlined: frozenset[str] = frozenset(),
        *,
        memcheck: bool = False,
        guarded: bool = False,
    ) -> None:
        self.variables = variables
        self.functions = functions
        self.given = given
        self.inlined = inlined
        self.memcheck = memcheck
        self.guarded = guarded
        self.declarations: dict[str, str] = {}
        self.externs: set[str] = set()

    def declare(self, name: str, signature: str) -> str:
        """Declare ``signature`` (``i32 @name(i32)``) once and return the function's name."""
        self.declarations.setdefault(name, f"declare {signature}")
        return f"@{name}"

    def define(self, name: str, text: str) -> None:
        """Add the definition of a function that several emitters may ask for."""
        self.declarations.setdefault(name, text)

    def intrinsic(self, name: str, result: str, *arguments: str) -> str:
        """Declare an LLVM intrinsic and return its name."""
        return self.declare(name, f"{result} @{name}({', '.join(arguments)})")


class Emitter:
    """Emits the body of one LLVM function."""

    memory_metadata = ""
    parameter_metadata = ""

    def __init__(self, context: ModuleContext, function: Function) -> None:
        self.context = context
        self.function = function
        self.lines: list[str] = []
        self.allocas: dict[str, str] = {}
        self.registers: dict[str, str] = {}
        self._temporaries = 0
        self._labels = 0
        self.ins: Instruction | None = None

    # -- text -----------------------------------------------------------------------------------

    def emit(self, text: str) -> None:
        self.lines.append(text)

    def value(self, text: str) -> str:
        """Emit ``%n = text`` and return ``%n``."""
        self._temporaries += 1
        name = f"%t{self._temporaries}"
        self.lines.append(f"{name} = {text}")
        return name

    def label(self, stem: str = "L") -> str:
        self._labels += 1
        return f"{stem}.{self._labels}"

    def place(self, label: str) -> None:
        self.lines.append(f"{label}:")

    def branch(self, label: str) -> None:
        self.emit(f"br label %{label}")

    def extern(self, name: str, result: str, *arguments: str) -> str:
        """Call a function outside of the module, whose address is filled in after loading."""
        self.context.externs.add(name)
        callee = self.value(f'load ptr, ptr @"x.{name}"')
        text = f"call {result} {callee}({', '.join(arguments)})"
        if result == "void":
            self.emit(text)
            return ""
        return self.value(text)

    def call(self, name: str, result: str, *arguments: str) -> str:
        """Call the intrinsic ``name`` with typed arguments such as ``i32 %a``."""
        kinds = [argument.split(" ")[0] for argument in arguments]
        callee = self.context.intrinsic(name, result, *kinds)
        text = f"call {result} {callee}({', '.join(arguments)})"
        if result == "void":
            self.emit(text)
            return ""
        return self.value(text)

    # -- errors ---------------------------------------------------------------------------------

    def unsupported(self, ins: Instruction, detail: str = "") -> UnsupportedPtxError:
        return UnsupportedPtxError(ins.opcode, ins.line, detail)

    # -- registers ------------------------------------------------------------------------------

    def slot(self, name: str) -> str:
        """Return the alloca of a register."""
        found = self.registers.get(name)
        if found is None:
            found = f"%r{len(self.registers)}"
            self.registers[name] = found
            self.allocas[found] = f"i{self.width(name)}"
        return found

    def width(self, name: str) -> int:
        return bits_of(self.function.registers[name])

    def stack(self, kind: str, align_bytes: int = 8) -> str:
        """Return a new alloca in the entry block."""
        name = f"%s{len(self.allocas)}"
        self.allocas[name] = f"{kind}, align {align_bytes}"
        return name

    def alloca_lines(self) -> Iterable[str]:
        return (f"{name} = alloca {kind}" for name, kind in self.allocas.items())

    def load_register(self, name: str) -> str:
        return self.value(f"load i{self.width(name)}, ptr {self.slot(name)}")

    def resize(self, value: str, bits: int, wanted: int, *, signed: bool = False) -> str:
        """Extend or truncate an integer."""
        if bits == wanted:
            return value
        if bits > wanted:
            return self.value(f"trunc i{bits} {value} to i{wanted}")
        return self.value(f"{'sext' if signed else 'zext'} i{bits} {value} to i{wanted}")

    def read(self, operand: Operand | None, bits: int, *, signed: bool = False) -> str:
        """Return the operand's bits as an ``i{bits}`` value."""
        if isinstance(operand, Register):
            width = self.width(operand.name)
            return self.resize(self.load_register(operand.name), width, bits, signed=signed)
        if isinstance(operand, Immediate):
            return self.literal(operand, bits)
        if isinstance(operand, Special):
            value, width = self.special(operand.name)
            return self.resize(value, width, bits)
        if isinstance(operand, Symbol):
            address = self.symbol_address(operand)
            return self.resize(address, 64, bits)
        if isinstance(operand, Negated):
            return self.value(f"xor i1 {self.read(operand.register, 1)}, true")
        raise PtxSyntaxError(self.line(), "an operand has the wrong form")

    def literal(self, number: Immediate, bits: int) -> str:
        value = number.value
        if number.float_bits and number.float_bits != bits and self.reads_float():
            value = _refloat(value, number.float_bits, bits)
        value &= (1 << bits) - 1
        if bits == 1:
            return "true" if value else "false"
        return str(value - (1 << bits) if value >> (bits - 1) else value)

    def reads_float(self) -> bool:
        """Whether a literal in the instruction is a float of the type's width."""
        if self.ins is None:
            return False
        kinds = self.ins.parts[1:] if self.ins.parts[0] == "slct" else self.ins.parts[-1:]
        return not {"f32", "f64"}.isdisjoint(kinds)

    def line(self) -> int:
        return self.ins.line if self.ins is not None else self.function.line

    def read_float(self, operand: Operand | None, bits: int) -> str:
        """Return the operand as a ``half``, ``float`` or ``double`` value."""
        return self.value(f"bitcast i{bits} {self.read(operand, bits)} to {FLOAT_NAMES[bits]}")

    def write(
        self, operand: Operand | None, value: str, bits: int, *, signed: bool = False
    ) -> None:
        """Store an ``i{bits}`` value in a register; the sink takes it too."""
        if operand is None:
            return
        if not isinstance(operand, Register):
            raise PtxSyntaxError(self.line(), "the destination is not a register")
        width = self.width(operand.name)
        value = self.resize(value, bits, width, signed=signed)
        self.emit(f"store i{width} {value}, ptr {self.slot(operand.name)}")

    def write_float(self, operand: Operand | None, value: str, bits: int) -> None:
        self.write(operand, self.value(f"bitcast {FLOAT_NAMES[bits]} {value} to i{bits}"), bits)

    # -- guards ---------------------------------------------------------------------------------

    def guarded(self, guard: Guard | None, emit: Callable[[], None]) -> None:
        """Emit ``emit`` under a predicate."""
        if guard is None:
            emit()
            return
        then, join = self.label("then"), self.label("join")
        condition = self.read(guard.register, 1)
        yes, no = (join, then) if guard.negated else (then, join)
        self.emit(f"br i1 {condition}, label %{yes}, label %{no}")
        self.place(then)
        emit()
        self.branch(join)
        self.place(join)

    # -- what subclasses know -------------------------------------------------------------------

    def special(self, name: str) -> tuple[str, int]:
        """Return a special register's value and its width in bits."""
        raise UnsupportedPtxError(name, self.line())

    def symbol_address(self, symbol: Symbol) -> str:
        """Return a variable's address (i64): native, or the offset of a shared variable."""
        variable = self.function.variables.get(symbol.name)
        if variable is not None:
            return self.offset(self.variable_address(variable), symbol.offset_bytes)
        if symbol.name in self.context.variables:
            found = self.context.variables[symbol.name]
            if found.space == "shared":
                return self.offset(self.variable_address(found), symbol.offset_bytes)
            if found.external:
                raise UnsupportedPtxError(symbol.name, self.line(), "it is defined elsewhere")
            address = self.value(f'ptrtoint ptr @"g.{symbol.name}" to i64')
            return self.offset(address, symbol.offset_bytes)
        if symbol.name in self.context.functions:
            return self.function_address(symbol.name)
        raise PtxSyntaxError(self.line(), f"{symbol.name!r} is not declared")

    def function_address(self, name: str) -> str:
        function = self.context.functions[name]
        if function.body is None or name in self.context.inlined:
            detail = "the address of a function that is inlined or not defined"
            raise UnsupportedPtxError(name, self.line(), detail)
        return self.value(f'ptrtoint ptr @"f.{name}" to i64')

    def variable_address(self, variable: Variable) -> str:
        raise UnsupportedPtxError(variable.name, self.line(), "a variable of this space")

    def parameter_pointer(self, variable: Variable, offset_bytes: int) -> tuple[str, str]:
        """Return the pointer into a parameter's memory and the metadata of a load from it."""
        address = self.variable_address(variable)
        return self.pointer(address, offset_bytes), ""

    def load_early(self, operands: tuple[Operand, ...], bits: int, signed: bool) -> bool:
        """Load a kernel's parameter where the function starts, if this is one."""
        return False

    def shared_base(self) -> str:
        """Return the native address (i64) of the CTA's shared memory."""
        raise UnsupportedPtxError(".shared", self.line(), "outside of a kernel")

    def shared_bytes(self) -> str:
        raise UnsupportedPtxError(".shared", self.line(), "outside of a kernel")

    def local_range(self) -> tuple[str, str]:
        """Return the native addresses of the thread's local memory and of its end."""
        raise UnsupportedPtxError(".local", self.line(), "outside of a kernel")

    def note_effect(self) -> None:
        """Called at every store and atomic."""

    def before_call(self) -> None:
        """Called before a call of a guarded native function."""

    def after_call(self) -> None:
        """Called after it."""

    def no_function(self, condition: str) -> None:
        """Called with whether a pointer (i1) is none of a function; for memcheck."""

    def check_access(self, pointer: str, space: str, kind: int, size_bytes: int) -> None:
        """Called before every access but those of parameters by name; for memcheck."""

    def print_message(self, form: str, arguments: str) -> str:
        """Print; both are addresses (i64). Return the number of arguments (i32)."""
        raise UnsupportedPtxError("vprintf", self.line(), "outside of a kernel")

    def trap(self, kind: int) -> None:
        """Stop the kernel; emits a terminator."""
        self.call("llvm.trap", "void")
        self.emit("unreachable")

    # -- addresses ------------------------------------------------------------------------------

    def offset(self, address: str, offset_bytes: int) -> str:
        return self.value(f"add i64 {address}, {offset_bytes}") if offset_bytes else address

    def pointer(self, address: str, offset_bytes: int = 0) -> str:
        """Return a pointer to a native address; strides stay visible to the vectoriser."""
        pointer = self.value(f"getelementptr i8, ptr {self.zero()}, i64 {address}")
        if offset_bytes:
            pointer = self.value(f"getelementptr i8, ptr {pointer}, i64 {offset_bytes}")
        return pointer

    def zero(self) -> str:
        """Return a pointer that is always null, which LLVM does not know."""
        return "%zero"
