"""A ``.func`` without suspension points as one LLVM function with a C signature."""

from __future__ import annotations

from collections.abc import Callable

from ringflow.device.host.emit.calls import (
    ASSERTION,
    BREAKPOINT,
    HIDDEN,
    TRAP,
    emit_call,
    kind_of,
    signature,
)
from ringflow.device.host.emit.core import Emitter, ModuleContext
from ringflow.device.host.emit.families import emit_plain
from ringflow.device.host.ptx.ast import (
    Call,
    Function,
    Instruction,
    Label,
    Register,
    Statement,
    Symbol,
    Variable,
)
from ringflow.errors import PtxSyntaxError, UnsupportedPtxError

TRAPS = {"trap": TRAP, "brkpt": BREAKPOINT}
ASSERTIONS = frozenset({"__assertfail", "__assert_fail", "__assert"})


def block_name(label: str) -> str:
    return f'"b.{label}"'


def takes_stack_address(function: Function) -> bool:
    """Whether the address of a local variable or a parameter becomes a number."""
    if any(variable.space == "local" for variable in function.variables.values()):
        return True
    for statement in function.body or ():
        if isinstance(statement, Instruction):
            for operand in statement.operands:
                if isinstance(operand, Symbol) and operand.name in function.variables:
                    return True
    return False


class FunctionEmitter(Emitter):
    """Emits statements in order; branches go to labels of the same function."""

    def __init__(self, context: ModuleContext, function: Function) -> None:
        super().__init__(context, function)
        self.places: dict[str, str] = {}
        self.open = True
        self.addressed = takes_stack_address(function)

    # -- variables ------------------------------------------------------------------------------

    def stack_place(self, variable: Variable) -> str:
        """Return the alloca that holds a parameter or local variable."""
        found = self.places.get(variable.name)
        if found is None:
            found = self.stack(
                f"[{max(variable.size_bytes, 1)} x i8]", max(variable.align_bytes, 8)
            )
            self.places[variable.name] = found
        return found

    def parameter_pointer(self, variable: Variable, offset_bytes: int) -> tuple[str, str]:
        place = self.stack_place(variable)
        if offset_bytes:
            place = self.value(f"getelementptr i8, ptr {place}, i64 {offset_bytes}")
        return place, ""

    def variable_address(self, variable: Variable) -> str:
        if variable.space not in ("param", "local"):
            raise UnsupportedPtxError(f".{variable.space}", self.line(), "outside of a kernel")
        return self.value(f"ptrtoint ptr {self.stack_place(variable)} to i64")

    def pointer(self, address: str, offset_bytes: int = 0) -> str:
        """A pointer made from an alloca's address must not be based on another pointer."""
        if not self.addressed:
            return super().pointer(address, offset_bytes)
        return self.value(f"inttoptr i64 {self.offset(address, offset_bytes)} to ptr")

    def special(self, name: str) -> tuple[str, int]:
        return time_register(self, name)

    # -- statements -----------------------------------------------------------------------------

    def statement(self, statement: Statement) -> None:
        """Emit one statement; starts a new block where the last one ended."""
        if isinstance(statement, Label):
            if self.open:
                self.branch(block_name(statement.name))
            self.place(block_name(statement.name))
            self.open = True
            return
        if not self.open:
            self.place(self.label("dead"))
            self.open = True
        if isinstance(statement, Call):
            self.call_statement(statement)
            return
        root = statement.parts[0]
        self.ins = statement
        if root in ("bra", "brx", "ret", "exit", *TRAPS):
            self.control(statement)
        else:
            emit_plain(self, statement)

    def call_statement(self, call: Call) -> None:
        self.ins = Instruction("call", ("call",), (), call.guard, call.line)
        if call.target in ASSERTIONS:
            self.terminate(call.guard is not None, self.ins, lambda: self.trap(ASSERTION))
            return
        self.guarded(call.guard, lambda: emit_call(self, call))

    def control(self, ins: Instruction) -> None:
        root = ins.parts[0]
        if root == "bra":
            target = ins.operands[0]
            if not isinstance(target, Symbol):
                raise PtxSyntaxError(ins.line, "a branch names no label")
            label = target.name
            self.terminate(ins.guard is not None, ins, lambda: self.jump(label))
        elif root == "brx":
            self.terminate(ins.guard is not None, ins, lambda: self.jump_table(ins))
        elif root in TRAPS:
            self.terminate(ins.guard is not None, ins, lambda: self.trap(TRAPS[root]))
        else:
            self.terminate(ins.guard is not None, ins, self.leave)

    def terminate(self, conditional: bool, ins: Instruction, emit: Callable[[], None]) -> None:
        """Emit a terminator, under the instruction's guard if it has one."""
        if not conditional:
            emit()
            self.open = False
            return
        assert ins.guard is not None
        then, after = self.label("then"), self.label("else")
        condition = self.read(ins.guard.register, 1)
        yes, no = (after, then) if ins.guard.negated else (then, after)
        self.emit(f"br i1 {condition}, label %{yes}, label %{no}")
        self.place(then)
        emit()
        self.place(after)

    def jump(self, label: str) -> None:
        self.branch(block_name(label))

    def jump_table(self, ins: Instruction) -> None:
        table = ins.operands[1]
        if not isinstance(table, Symbol) or table.name not in self.function.targets:
            raise PtxSyntaxError(ins.line, "brx.idx names no list of targets")
        labels = self.function.targets[table.name]
        index = self.read(ins.operands[0], 32)
        lost = self.label("lost")
        self.emit(f"switch i32 {index}, label %{lost} [")
        for number, label in enumerate(labels):
            self.emit(f"  i32 {number}, label %{block_name(label)}")
        self.emit("]")
        self.place(lost)
        self.emit("unreachable")

    def leave(self) -> None:
        """Return from the function."""
        results = self.function.prototype.results
        if not results:
            self.emit("ret void")
            return
        kind = kind_of(results[0])
        if results[0].space == "reg":
            value = self.read(Register(results[0].name), int(kind[1:]))
        else:
            pointer, _ = self.parameter_pointer(results[0], 0)
            value = self.value(f"load {kind}, ptr {pointer}")
        self.emit(f"ret {kind} {value}")

    # -- the whole ------------------------------------------------------------------------------

    def text(self) -> str:
        """Return the function's LLVM IR."""
        self._take_parameters()
        for statement in self.function.body or ():
            self.statement(statement)
        if self.open:
            self.leave()
        zeros = [
            f"store i{self.width(name)} {'false' if self.width(name) == 1 else 0}, ptr {slot}"
            for name, slot in self.registers.items()
        ]
        head, tail = self.head(), self.tail()
        hidden = HIDDEN if self.context.guarded else ""
        return "\n".join(
            [
                f"define {signature(self.function, names=True, hidden=hidden)} nounwind {{",
                *self.alloca_lines(),
                '%zero = load ptr, ptr @"ringflow.zero", !invariant.load !0',
                *head,
                *zeros,
                *self.lines,
                *tail,
                "}",
            ]
        )

    def head(self) -> list[str]:
        """Return what comes before the body."""
        return []

    def tail(self) -> list[str]:
        """Return what comes after the body."""
        return []

    def _take_parameters(self) -> None:
        for index, variable in enumerate(self.function.prototype.parameters):
            kind = kind_of(variable)
            if variable.space == "reg":
                self.write(Register(variable.name), f"%a{index}", int(kind[1:]))
            else:
                pointer, _ = self.parameter_pointer(variable, 0)
                self.emit(f"store {kind} %a{index}, ptr {pointer}")


def time_register(emitter: Emitter, name: str) -> tuple[str, int]:
    """Return a clock's value; other special registers exist in kernels only."""
    emitter.note_effect()  # who waits for a time is not idle: it goes on by itself
    if name in ("%clock64", "%clock", "%clock_hi"):
        ticks = emitter.call("llvm.readcyclecounter", "i64")
        if name == "%clock_hi":
            ticks = emitter.value(f"lshr i64 {ticks}, 32")
        return (ticks, 64) if name == "%clock64" else (emitter.resize(ticks, 64, 32), 32)
    if name in ("%globaltimer", "%globaltimer_lo", "%globaltimer_hi"):
        now = emitter.extern("ringflow_globaltimer", "i64")
        if name == "%globaltimer_hi":
            now = emitter.value(f"lshr i64 {now}, 32")
        return (now, 64) if name == "%globaltimer" else (emitter.resize(now, 64, 32), 32)
    raise UnsupportedPtxError(name, emitter.line(), "as a special register here")
