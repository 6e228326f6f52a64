"""A ``.entry``: where its variables lie, its regions, and the table that the runtime reads."""

from __future__ import annotations

from collections.abc import Sequence

from ringflow.device.host.control_flow.plan import Plan
from ringflow.device.host.emit.collective import collective_of
from ringflow.device.host.emit.core import ModuleContext
from ringflow.device.host.emit.memcheck import reserved_bytes
from ringflow.device.host.emit.region import Memory, RegionEmitter
from ringflow.device.host.emit.rows import ScalarEmitter, VectorEmitter, rows_text, scalar_door
from ringflow.device.host.program import EntryLayout
from ringflow.device.host.ptx.ast import Address, Call, Function, Instruction, Symbol, Variable
from ringflow.errors import UnsupportedPtxError


def _aligned(offset: int, align: int) -> int:
    return (offset + align - 1) // align * align


def _used_symbols(function: Function) -> set[str]:
    found: set[str] = set()
    for statement in function.body or ():
        if isinstance(statement, Instruction):
            for operand in statement.operands:
                if isinstance(operand, Symbol):
                    found.add(operand.name)
                elif isinstance(operand, Address) and isinstance(operand.base, Symbol):
                    found.add(operand.base.name)
        elif isinstance(statement, Call):
            found.update(a for a in statement.arguments if isinstance(a, str))
    return found


def _place(variables: Sequence[Variable], end: int = 0) -> tuple[dict[str, int], int]:
    """Lay variables out one after the other; return their offsets and the end."""
    offsets: dict[str, int] = {}
    for variable in variables:
        end = _aligned(end, max(variable.align_bytes, 1))
        offsets[variable.name] = end
        end += variable.size_bytes
    return offsets, end


def layout_memory(function: Function, context: ModuleContext) -> tuple[Memory, int, int, int]:
    """Return where an entry's variables lie, and the bytes of parameters, shared, local memory."""
    used = _used_symbols(function)
    shared = [v for v in function.variables.values() if v.space == "shared"]
    shared += [v for n, v in context.variables.items() if v.space == "shared" and n in used]
    static = [v for v in shared if v.size_bytes]
    reserved = reserved_bytes(context, function)
    shared_offsets, end = _place(sorted(static, key=lambda v: -v.align_bytes), reserved)
    shared_bytes = _aligned(end, 16)
    for variable in shared:
        if not variable.size_bytes:
            shared_offsets[variable.name] = shared_bytes
    local = [v for v in function.variables.values() if v.space == "local"]
    local_offsets, local_end = _place(local)
    parameters, parameters_end = _place(function.prototype.parameters)
    memory = Memory(parameters, shared_offsets, local_offsets, reserved)
    return memory, parameters_end, shared_bytes, _aligned(local_end, 16)


def _check(function: Function) -> None:
    for parameter in function.prototype.parameters:
        if parameter.space != "param":
            raise UnsupportedPtxError(".reg", parameter.line, "as a kernel parameter")


class KernelEmitter:
    """Emits all of one entry."""

    def __init__(self, context: ModuleContext, plan: Plan) -> None:
        self.context = context
        self.plan = plan
        self.name = plan.function.name
        _check(plan.function)
        self.memory, self.parameters_bytes, self.shared_bytes, self.local_bytes = layout_memory(
            plan.function, context
        )

    def layout(self) -> EntryLayout:
        parameters = self.plan.function.prototype.parameters
        return EntryLayout(
            self.name,
            tuple(variable.size_bytes for variable in parameters),
            tuple(self.memory.parameters[variable.name] for variable in parameters),
            self.parameters_bytes,
            self.shared_bytes,
            self.local_bytes,
            self.plan.unit_count,
            len(self.plan.regions),
            self.memory.reserved_bytes,
            tuple(region.ins.line if region.ins else 0 for region in self.plan.regions),
        )

    def text(self, *, vector: bool = True) -> str:
        """Return the LLVM IR of the regions, the table, and the entry's two functions.

        Without ``vector`` every region has its scalar form only, which compiles much faster.
        """
        scalar = ScalarEmitter(self.context, self.plan, self.memory)
        pieces = [scalar.text(), rows_text(self.name, scalar, None)]
        for region in self.plan.regions:
            if vector and self.plan.is_vector(region):
                rows = VectorEmitter(self.context, self.plan, self.memory, region)
                pieces.append(rows.text())
                pieces.append(rows_text(self.name, scalar, rows))
            else:
                pieces.append(scalar_door(self.name, region.index))
        pieces.append(self._table(scalar))
        pieces.append(self._doors())
        return "\n".join(pieces)

    def _table(self, emitter: RegionEmitter) -> str:
        runs = ", ".join(f'ptr @"run.{self.name}.{r.index}"' for r in self.plan.regions)
        count = len(self.plan.regions)
        facts: list[int] = []
        for region in self.plan.regions:
            if region.ins is None:
                facts += [0, 0]
            else:
                collective = collective_of(emitter, region.ins)
                facts += [collective.code, collective.constant]
        traps = [word for trap in self.plan.traps for word in (trap.kind, trap.line)] or [0, 0]
        numbers = f'@"facts.{self.name}" = private constant [{len(facts)} x i32] [' + (
            ", ".join(f"i32 {fact}" for fact in facts) + "]"
        )
        trapped = f'@"traps.{self.name}" = private constant [{len(traps)} x i32] [' + (
            ", ".join(f"i32 {word}" for word in traps) + "]"
        )
        return "\n".join(
            [
                f'@"runs.{self.name}" = global [{count} x ptr] [{runs}]',  # see ``Program.adopt``
                numbers,
                trapped,
                f'@"table.{self.name}" = private constant {{ ptr, ptr, ptr, i32, i32 }} '
                f'{{ ptr @"runs.{self.name}", ptr @"facts.{self.name}", '
                f'ptr @"traps.{self.name}", i32 {count}, i32 0 }}',
            ]
        )

    def _doors(self) -> str:
        self.context.externs.update(("ringflow_cta_step", "ringflow_cta_initialise"))
        numbers = f"i32 {self.plan.unit_count}, i32 {self.local_bytes}, i32 {self.shared_bytes}"
        return "\n".join(
            [
                f'define i32 @"step.{self.name}"(ptr %cta, i32 %budget) nounwind {{',
                '%f = load ptr, ptr @"x.ringflow_cta_step"',
                f'%r = call i32 %f(ptr %cta, i32 %budget, ptr @"table.{self.name}")',
                "ret i32 %r",
                "}",
                f'define void @"init.{self.name}"(ptr %cta, ptr %record, i32 %index) nounwind {{',
                '%f = load ptr, ptr @"x.ringflow_cta_initialise"',
                f"call void %f(ptr %cta, ptr %record, i32 %index, {numbers})",
                "ret void",
                "}",
            ]
        )
