"""Functions that kernels call natively: through a pointer, or that call themselves.

- They cannot be inlined, so they cannot give way. They get the CTA and the thread as hidden
  arguments; what goes wrong is noted in the CTA's header, and every caller returns at once.
- Noted are calls nested too deeply, loops and recursions that use up the fuel of the outermost
  call, and under memcheck wrong accesses and pointers to what is no such function.
- Under memcheck their local variables lie in the CTA, where accesses to them can be checked.
"""

from __future__ import annotations

from typing import Final

from ringflow.device.host import cta
from ringflow.device.host.emit.calls import result_kind
from ringflow.device.host.emit.core import Emitter, ModuleContext
from ringflow.device.host.emit.function import FunctionEmitter
from ringflow.device.host.ptx.ast import Function, Instruction, Label, Statement, Symbol, Variable

NATIVE_FUEL: Final = 1 << 27
"""Back edges and calls within one call from a kernel: up to a second of an endless loop."""
NATIVE_STACK_BYTES: Final = 512 << 10
LOCALS_BYTES: Final = 32 << 10
"""Local variables of all nested calls of a thread, under memcheck."""
LOCALS_BEGIN: Final = 32
"""The first word of the CTA's shared memory says where they end."""


def header_pointer(emitter: Emitter, offset_bytes: int) -> str:
    return emitter.value(f"getelementptr i8, ptr %cta, i64 {offset_bytes}")


def shared_pointer(emitter: Emitter) -> str:
    address = emitter.value(f"load i64, ptr {header_pointer(emitter, cta.SHARED)}")
    return emitter.value(f"inttoptr i64 {address} to ptr")


def enter_native(emitter: Emitter) -> None:
    """Give the call that a kernel is about to make its stack and its fuel."""
    emitter.context.declare("llvm.frameaddress.p0", "ptr @llvm.frameaddress.p0(i32 immarg)")
    frame = emitter.value("call ptr @llvm.frameaddress.p0(i32 0)")
    address = emitter.value(f"ptrtoint ptr {frame} to i64")
    emitter.emit(f"store i64 {address}, ptr {header_pointer(emitter, cta.STACK)}")
    emitter.emit(f"store i32 {NATIVE_FUEL}, ptr {header_pointer(emitter, cta.FUEL)}")
    if emitter.context.memcheck:
        emitter.emit(f"store i64 {LOCALS_BEGIN}, ptr {shared_pointer(emitter)}")


def was_abandoned(emitter: Emitter) -> str:
    """Return whether a fault was noted (i1)."""
    access = emitter.value(f"load i32, ptr {header_pointer(emitter, cta.FAULT_ACCESS)}")
    return emitter.value(f"icmp ne i32 {access}, 0")


def note_fault(emitter: Emitter, kind: int) -> None:
    """Note what went wrong in the header."""
    for offset, value in (
        (cta.FAULT_ACCESS, str(kind | 1 << 8)),
        (cta.FAULT_THREAD, "%thread"),
        (cta.FAULT_LINE, str(emitter.line())),
    ):
        emitter.emit(f"store i32 {value}, ptr {header_pointer(emitter, offset)}")


class GuardedFunctionEmitter(FunctionEmitter):
    """A native function that returns early, with zeros, once something went wrong."""

    def __init__(self, context: ModuleContext, function: Function) -> None:
        super().__init__(context, function)
        self._seen: set[str] = set()
        self._frame_bytes = 0
        self._locals: list[str] = []

    # -- local variables ------------------------------------------------------------------------

    def stack_place(self, variable: Variable) -> str:
        if not self.context.memcheck or not self.addressed:
            return super().stack_place(variable)
        found = self.places.get(variable.name)
        if found is None:
            found = f"%local{len(self.places)}"
            self.places[variable.name] = found
            align = max(variable.align_bytes, 16)
            self._frame_bytes += -self._frame_bytes % align
            self._locals.append(f"{found} = getelementptr i8, ptr %frame, i64 {self._frame_bytes}")
            self._frame_bytes += max(variable.size_bytes, 1)
        return found

    # -- what may go wrong ----------------------------------------------------------------------

    def abandon_if(self, condition: str, kind: int = 0) -> None:
        """Return with zeros where something went wrong, which is noted first if not yet."""
        wrong, on = self.label("wrong"), self.label("on")
        self.emit(f"br i1 {condition}, label %{wrong}, label %{on}, !prof !2")
        self.place(wrong)
        if kind:
            note_fault(self, kind)
        self.branch("abandon")
        self.place(on)

    def burn(self) -> None:
        """Use up fuel."""
        pointer = header_pointer(self, cta.FUEL)
        before = self.value(f"load i32, ptr {pointer}")
        after = self.value(f"sub i32 {before}, 1")
        self.emit(f"store i32 {after}, ptr {pointer}")
        self.abandon_if(self.value(f"icmp slt i32 {after}, 0"), cta.ACCESS_FUEL)

    def check_access(self, pointer: str, space: str, kind: int, size_bytes: int) -> None:
        if not self.context.memcheck:
            return
        address = self.value(f"ptrtoint ptr {pointer} to i64")
        answer = self.extern(
            "ringflow_memcheck",
            "i32",
            "ptr %cta",
            "i32 %thread",
            f"i64 {address}",
            f"i32 {kind | size_bytes << 8}",
            f"i32 {self.line()}",
            "ptr null",
        )
        self.abandon_if(self.value(f"icmp eq i32 {answer}, 0"))

    def before_call(self) -> None:
        """The stack and the fuel are the outermost call's."""

    def after_call(self) -> None:
        self.abandon_if(was_abandoned(self))

    def no_function(self, condition: str) -> None:
        self.abandon_if(condition, cta.ACCESS_CALL)

    # -- control --------------------------------------------------------------------------------

    def statement(self, statement: Statement) -> None:
        super().statement(statement)
        if isinstance(statement, Label):
            self._seen.add(statement.name)

    def jump(self, label: str) -> None:
        if label in self._seen:
            self.burn()
        super().jump(label)

    def jump_table(self, ins: Instruction) -> None:
        table = ins.operands[1]
        if isinstance(table, Symbol) and self._seen.intersection(
            self.function.targets.get(table.name, ())
        ):
            self.burn()
        super().jump_table(ins)

    def leave(self) -> None:
        self._restore()
        super().leave()

    def _restore(self) -> None:
        if self.context.memcheck:
            self.emit("store i64 %frame.begin, ptr %frame.word")

    # -- the whole ------------------------------------------------------------------------------

    def head(self) -> list[str]:
        """Return what comes before the body: checks of stack, fuel and locals."""
        body, self.lines, self.ins = self.lines, [], None
        if self.context.memcheck:
            self.emit(f"%frame.word = getelementptr i8, ptr {shared_pointer(self)}, i64 0")
            self.emit("%frame.begin = load i64, ptr %frame.word")
        top = self.value(f"load i64, ptr {header_pointer(self, cta.STACK)}")
        frame = self.value("call ptr @llvm.frameaddress.p0(i32 0)")
        used = self.value(f"sub i64 {top}, {self.value(f'ptrtoint ptr {frame} to i64')}")
        deep = self.value(f"icmp sgt i64 {used}, {NATIVE_STACK_BYTES}")
        self.abandon_if(deep, cta.ACCESS_DEPTH)
        self.burn()
        if self.context.memcheck:
            end = self.value(f"add i64 %frame.begin, {self._frame_bytes + -self._frame_bytes % 16}")
            full = self.value(f"icmp ugt i64 {end}, {LOCALS_BEGIN + LOCALS_BYTES}")
            self.abandon_if(full, cta.ACCESS_DEPTH)
            self.emit(f"store i64 {end}, ptr %frame.word")
            self.emit("%frame = getelementptr i8, ptr %frame.word, i64 %frame.begin")
            self.lines += self._locals
        head, self.lines = self.lines, body
        return head

    def tail(self) -> list[str]:
        """Return the block that returns early."""
        body, self.lines = self.lines, []
        self.place("abandon")
        self._restore()
        kind = result_kind(self.function.prototype)
        self.emit("ret void" if kind == "void" else f"ret {kind} 0")
        tail, self.lines = self.lines, body
        return tail
