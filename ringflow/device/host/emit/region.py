"""A kernel's code between suspensions as LLVM functions that run one thread.

- They return the next state word; what is live there lies in the CTA's spill units.
- The vector form is one region, ends at every loop edge that is cut, and takes affine registers
  as arguments.
- The scalar form is the whole kernel, entered at any region; it runs loops natively, on fuel.
- Where a poller goes on polling, stores and changed spills raise the effect flag: without it the
  round was idle.
"""

from __future__ import annotations

import attrs

from ringflow.device.host import cta
from ringflow.device.host.control_flow.graph import (
    Branch,
    Jump,
    Leave,
    Suspend,
    Switch,
    Trap,
)
from ringflow.device.host.control_flow.names import reads, writes
from ringflow.device.host.control_flow.plan import Plan, Region
from ringflow.device.host.emit.calls import emit_assertion
from ringflow.device.host.emit.collective import MAIL_A, MAIL_B, collective_of, take_result
from ringflow.device.host.emit.core import ModuleContext
from ringflow.device.host.emit.families import emit_plain
from ringflow.device.host.emit.function import ASSERTIONS, FunctionEmitter, time_register
from ringflow.device.host.emit.guarded import enter_native, note_fault, was_abandoned
from ringflow.device.host.emit.memcheck import MEMORY_TRAP, emit_check
from ringflow.device.host.ptx.ast import (
    Address,
    Call,
    Instruction,
    Operand,
    Register,
    Symbol,
    Variable,
)
from ringflow.errors import UnsupportedPtxError

_HEADER_REGISTERS = {
    "%ntid.x": cta.BLOCK_X,
    "%ntid.y": cta.BLOCK_Y,
    "%ntid.z": cta.BLOCK_Z,
    "%ctaid.x": cta.INDEX_X,
    "%ctaid.y": cta.INDEX_Y,
    "%ctaid.z": cta.INDEX_Z,
    "%nctaid.x": cta.GRID_X,
    "%nctaid.y": cta.GRID_Y,
    "%nctaid.z": cta.GRID_Z,
    "%total_smem_size": cta.SHARED_BYTES,
    "%dynamic_smem_size": cta.DYNAMIC_SHARED,
}
_CONSTANT_REGISTERS = {"%smid": 0, "%nsmid": 1, "%gridid": 0}


@attrs.frozen
class Memory:
    """Where an entry's parameters, shared and local variables lie, by name.

    Attributes:
        reserved_bytes: what memcheck keeps at the start of shared memory.
    """

    parameters: dict[str, int]
    shared: dict[str, int]
    local: dict[str, int]
    reserved_bytes: int = 0


class RegionEmitter(FunctionEmitter):
    """What both forms share: the CTA's memory, blocks, spilling and bringing back."""

    def __init__(self, context: ModuleContext, plan: Plan, memory: Memory) -> None:
        super().__init__(context, plan.function)
        self.addressed = False
        self.plan = plan
        self.memory = memory
        self.prologue: list[str] = []
        self.hoisted: dict[str, tuple[str, list[str]]] = {}
        self.headers: dict[int | tuple[int, int], str] = {}
        self.units: dict[int, str] = {}
        self.exits: dict[int, Region] = {}
        self.arguments: list[str] = []
        self.sites = 0

    # -- the CTA's memory -----------------------------------------------------------------------

    def header(self, offset: int, kind: str = "i32") -> str:
        """Return a word of the header that never changes while the CTA lives.

        It is loaded outside of the loop over threads: LLVM would sink the load under a condition,
        and the vectoriser gather what is the same for all threads.
        """
        found = self.headers.get(offset)
        if found is None:
            found = f"%h{offset}"
            self.hoisted[found] = (
                kind,
                [
                    f"%p{offset} = getelementptr i8, ptr %cta, i64 {offset}",
                    f"{found} = load {kind}, ptr %p{offset}, !invariant.load !0",
                ],
            )
            self.headers[offset] = found
        return found

    def unit(self, unit: int, bits: int = 32) -> str:
        """Return the pointer to this thread's slot in a unit."""
        found = self.units.get(unit)
        if found is None:
            found = f"%u{unit}"
            self.prologue += [
                f"%m{unit} = mul nuw nsw i64 %stride, {unit}",
                f"%n{unit} = add nuw nsw i64 %m{unit}, {cta.HEADER_BYTES}",
                f"%o{unit} = getelementptr inbounds i8, ptr %cta, i64 %n{unit}",
                f"{found} = getelementptr inbounds i{bits}, ptr %o{unit}, i64 %thread64",
            ]
            self.units[unit] = found
        return found

    def slot_bits(self, name: str) -> int:
        return 64 if self.width(name) == 64 else 32

    def load_spill(self, name: str) -> str:
        bits = self.slot_bits(name)
        pointer = self.unit(self.plan.spills[name], bits)
        value = self.value(f"load i{bits}, ptr {pointer}{self.memory_metadata}")
        return self.resize(value, bits, self.width(name))

    # -- what the base class asks ---------------------------------------------------------------

    def special(self, name: str) -> tuple[str, int]:
        if name in ("%tid.x", "%tid.y", "%tid.z"):
            return f"%{name[-1]}", 32
        if name in _HEADER_REGISTERS:
            return self.header(_HEADER_REGISTERS[name]), 32
        if name in _CONSTANT_REGISTERS:
            return str(_CONSTANT_REGISTERS[name]), 32
        if name == "%laneid":
            return self.value("and i32 %thread, 31"), 32
        if name == "%warpid":
            return self.value("lshr i32 %thread, 5"), 32
        if name == "%nwarpid":
            more = self.value(f"add i32 {self.header(cta.THREADS)}, 31")
            return self.value(f"lshr i32 {more}, 5"), 32
        if name.startswith("%lanemask_"):
            return self._lane_mask(name[len("%lanemask_") :]), 32
        return time_register(self, name)

    def _lane_mask(self, which: str) -> str:
        lane = self.value("and i32 %thread, 31")
        if which == "eq":
            return self.value(f"shl i32 1, {lane}")
        from_lane = self.value(f"shl i32 -1, {lane}")
        above = self.value(f"shl i32 {from_lane}, 1")
        if which == "ge":
            return from_lane
        if which == "gt":
            return above
        return self.value(f"xor i32 {from_lane if which == 'lt' else above}, -1")

    def variable_address(self, variable: Variable) -> str:
        name = variable.name
        if name in self.memory.shared:
            return str(self.memory.shared[name])
        if name in self.memory.parameters:
            base = self.header(cta.PARAMETERS, "i64")
            return self.value(f"add i64 {base}, {self.memory.parameters[name]}")
        if name in self.memory.local:
            return self.value(f"add i64 {self.local_base()}, {self.memory.local[name]}")
        if variable.space == "param":
            return super().variable_address(variable)
        raise UnsupportedPtxError(name, self.line(), f"a .{variable.space} variable here")

    def local_base(self) -> str:
        """Return the native address of this thread's local memory."""
        size = self.resize(self.header(cta.LOCAL_BYTES), 32, 64)
        offset = self.value(f"mul i64 %thread64, {size}")
        return self.value(f"add i64 {self.header(cta.LOCAL, 'i64')}, {offset}")

    def parameter_pointer(self, variable: Variable, offset_bytes: int) -> tuple[str, str]:
        if variable.name in self.memory.parameters:
            address = self.variable_address(variable)
            metadata = ", !invariant.load !0" + self.memory_metadata
            return self.pointer(address, offset_bytes), metadata
        if variable.name in self.memory.local:
            pointer = self.pointer(self.variable_address(variable), offset_bytes)
            return pointer, self.memory_metadata
        return super().parameter_pointer(variable, offset_bytes)

    def load_early(self, operands: tuple[Operand, ...], bits: int, signed: bool) -> bool:
        """Take a kernel's parameter, loaded outside of the loop over threads."""
        target, address = operands[0], operands[1]
        if not isinstance(address, Address) or not isinstance(address.base, Symbol):
            return False
        if address.base.name not in self.memory.parameters or not isinstance(target, Register):
            return False
        offset = self.memory.parameters[address.base.name]
        offset += address.base.offset_bytes + address.offset_bytes
        found = self.headers.get((offset, bits))
        if found is None:
            base = self.header(cta.PARAMETERS, "i64")
            found = f"%q{offset}.{bits}"
            self.hoisted[found] = (
                f"i{bits}",
                [
                    f"{found}.b = getelementptr i8, ptr %zero, i64 {base}",
                    f"{found}.p = getelementptr i8, ptr {found}.b, i64 {offset}",
                    f"{found} = load i{bits}, ptr {found}.p, !invariant.load !0",
                ],
            )
            self.headers[(offset, bits)] = found
        self.write(target, found, bits, signed=signed)
        return True

    def shared_base(self) -> str:
        return self.header(cta.SHARED, "i64")

    def shared_bytes(self) -> str:
        return self.resize(self.header(cta.SHARED_BYTES), 32, 64)

    def local_range(self) -> tuple[str, str]:
        size = self.resize(self.header(cta.LOCAL_BYTES), 32, 64)
        threads = self.resize(self.header(cta.THREADS), 32, 64)
        return self.header(cta.LOCAL, "i64"), self.value(f"mul i64 {size}, {threads}")

    def check_access(self, pointer: str, space: str, kind: int, size_bytes: int) -> None:
        if self.context.memcheck:
            emit_check(self, pointer, space, kind, size_bytes)

    def before_call(self) -> None:
        self._end_if(was_abandoned(self))  # one endless call is enough, other threads make none
        enter_native(self)

    def after_call(self) -> None:
        self._end_if(was_abandoned(self))

    def no_function(self, condition: str) -> None:
        self._end_if(condition, cta.ACCESS_CALL)

    def _end_if(self, condition: str, kind: int = 0) -> None:
        """End the thread as a trap; what went wrong is noted first if not yet."""
        wrong, on = self.label("wrong"), self.label("on")
        self.emit(f"br i1 {condition}, label %{wrong}, label %{on}, !prof !2")
        self.place(wrong)
        if kind:
            note_fault(self, kind)
        self.finish(str(cta.STATE_TRAPPED | self.plan.traps.index(MEMORY_TRAP)))
        self.place(on)

    def print_message(self, form: str, arguments: str) -> str:
        return self.extern(
            "ringflow_print", "i32", "ptr %cta", "i32 %thread", f"i64 {form}", f"i64 {arguments}"
        )

    def call_statement(self, call: Call) -> None:
        if call.target in ASSERTIONS:
            self.ins = Instruction("call", ("call",), (), None, call.line)
            emit_assertion(self, call)
        else:
            super().call_statement(call)

    def name(self) -> str:
        """Return the function's LLVM name."""
        raise AssertionError("forms have names")

    # -- regions --------------------------------------------------------------------------------

    def parameters(self) -> str:
        """Return the parameters; ``hoisted`` ones are values that are loaded once a call."""
        extra = "".join(f", {kind} {name}" for name, (kind, _) in self.hoisted.items())
        return "ptr %cta, ptr %zero, i64 %stride, i32 %thread, i32 %x, i32 %y, i32 %z" + extra

    def enter(self, region: Region) -> None:
        """Bring the live registers back."""
        done: set[str] = set()
        for name in sorted(self.plan.live[region.block]):
            self._bring(region, name, done)
        if region.ins is not None:
            value = self.value(f"load i32, ptr {self.unit(MAIL_A)}{self.memory_metadata}")
            second = self.value(f"load i32, ptr {self.unit(MAIL_B)}{self.memory_metadata}")
            take_result(self, region.ins, value, second)

    def _bring(self, region: Region, name: str, done: set[str]) -> None:
        if name in done:
            return
        done.add(name)
        width = self.width(name)
        if name in self.arguments:
            value = f"%a{self.arguments.index(name)}"
        elif name in self.plan.recomputed:
            definition = self.plan.recomputed[name]
            for operand in reads(definition):
                self._bring(region, operand, done)
            emit_plain(self, definition)
            return
        elif name in self.plan.spills and region.index:
            value = self.load_spill(name)
        else:
            value = "false" if width == 1 else "0"
        self.emit(f"store i{width} {value}, ptr {self.slot(name)}")

    def block(self, index: int) -> None:
        """Emit one block."""
        self.place(f"b{index}")
        block = self.plan.blocks[index]
        for statement in block.statements:
            if isinstance(statement, Call):
                self.call_statement(statement)
            else:
                emit_plain(self, statement)
        match block.terminator:
            case Jump(target):
                self.branch(self.edge(index, target))
            case Branch(condition, yes, no):
                value = self.read(condition, 1)
                there, here = self.edge(index, yes), self.edge(index, no)
                self.emit(f"br i1 {value}, label %{there}, label %{here}")
            case Switch(register, targets):
                self._switch(index, register, targets)
            case Leave():
                self.finish(str(cta.STATE_EXITED))
            case Trap() as trap:
                self.finish(str(cta.STATE_TRAPPED | self.plan.traps.index(trap)))
            case Suspend(ins, target):
                self._suspend(ins, target)

    def _switch(self, index: int, register: Register, targets: tuple[int, ...]) -> None:
        value = self.read(register, 32)
        edges = [self.edge(index, target) for target in targets]
        self.emit(f"switch i32 {value}, label %{edges[-1]} [")
        for number, edge in enumerate(edges):
            self.emit(f"  i32 {number}, label %{edge}")
        self.emit("]")

    def edge(self, index: int, target: int) -> str:
        """Return the label that leads to a block, or out of the region."""
        raise AssertionError("forms define their edges")

    def way_out(self, region: Region) -> str:
        """Return the label that spills what is live at a region and returns its word."""
        self.exits[region.index] = region
        return f"leave{region.index}"

    def finish(self, word: str) -> None:
        self.emit(f"ret i32 {word}")

    def _suspend(self, ins: Instruction, target: int) -> None:
        collective = collective_of(self, ins)
        region = self.plan.by_block[target]
        for unit, (operand, bits) in collective.mail.items():
            value = self.read(operand, bits)
            if bits == 64:
                high = self.resize(self.value(f"lshr i64 {value}, 32"), 64, 32)
                self.emit(f"store i32 {high}, ptr {self.unit(MAIL_B)}{self.memory_metadata}")
            value = self.resize(value, bits, 32)
            self.emit(f"store i32 {value}, ptr {self.unit(unit)}{self.memory_metadata}")
        self.branch(self.way_out(region))

    def spilled_at(self, region: Region) -> list[str]:
        """Return the registers that lie in spill units when the region is entered."""
        taken = writes(region.ins, ()) if region.ins is not None else ()
        live = self.plan.live[region.block].difference(taken)
        return [name for name in sorted(live) if name in self.plan.spills]

    def spill(self, name: str) -> tuple[str, int, str]:
        """Return a register's slot, the slot's width and the value for it."""
        bits = self.slot_bits(name)
        pointer = self.unit(self.plan.spills[name], bits)
        return pointer, bits, self.resize(self.load_register(name), self.width(name), bits)

    def assemble(self, head: str, first: list[str], body: list[str]) -> str:
        """Return the function's text from its parts."""
        lines = [head, *self.alloca_lines(), *first, "%thread64 = zext i32 %thread to i64"]
        return "\n".join([*lines, *self.prologue, *body, "}"])
