"""A ``.entry``: its regions, the loops over threads, and the table that the runtime reads.

- ``run.NAME.k(cta, low, high)`` runs region k for threads low..high, which all wait there, stores
  their state words and returns the word they share, or MIXED, with the flags of all.
- Rows of threads with equal y and z run in the vector form where it exists and the guessed affine
  registers prove to be affine; else thread by thread in the scalar form.
"""

from __future__ import annotations

from collections.abc import Sequence

from ringflow.device.host import cta
from ringflow.device.host.control_flow.plan import Plan
from ringflow.device.host.emit.collective import collective_of
from ringflow.device.host.emit.core import ModuleContext
from ringflow.device.host.emit.region import Memory, RegionEmitter
from ringflow.device.host.program import EntryLayout
from ringflow.device.host.ptx.ast import Address, Call, Function, Instruction, Symbol, Variable
from ringflow.errors import UnsupportedPtxError

_WIDE_MIN = 8
"""Fewer threads than this run thread by thread."""


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


def _place(variables: Sequence[Variable]) -> tuple[dict[str, int], int]:
    """Lay variables out one after the other; return their offsets and the end."""
    offsets: dict[str, int] = {}
    end = 0
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
    shared_offsets, end = _place(sorted(static, key=lambda v: -v.align_bytes))
    shared_bytes = _aligned(end, 16)
    for variable in shared:
        if not variable.size_bytes:
            shared_offsets[variable.name] = shared_bytes
    local = [v for v in function.variables.values() if v.space == "local"]
    local_offsets, local_end = _place(local)
    parameters, parameters_end = _place(function.prototype.parameters)
    memory = Memory(parameters, shared_offsets, local_offsets)
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
        )

    def text(self) -> str:
        """Return the LLVM IR of the regions, the table, and the entry's two functions."""
        pieces: list[str] = []
        for region in self.plan.regions:
            scalar = RegionEmitter(self.context, self.plan, self.memory, region, vector=False)
            pieces.append(scalar.text())
            vector = None
            if self.plan.is_vector(region):
                vector = RegionEmitter(self.context, self.plan, self.memory, region, vector=True)
                pieces.append(vector.text())
            pieces.append(_run_text(self.name, region.index, scalar, vector))
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
                f'@"runs.{self.name}" = private constant [{count} x ptr] [{runs}]',
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


def _unit_pointer(name: str, unit: int, bits: int, thread: str) -> list[str]:
    return [
        f"%{name}.m = mul nuw nsw i64 %stride, {unit}",
        f"%{name}.n = add nuw nsw i64 %{name}.m, {cta.HEADER_BYTES}",
        f"%{name}.o = getelementptr inbounds i8, ptr %cta, i64 %{name}.n",
        f"%{name} = getelementptr inbounds i{bits}, ptr %{name}.o, i64 {thread}",
    ]


def _run_text(name: str, index: int, scalar: RegionEmitter, vector: RegionEmitter | None) -> str:
    """Return the loop over threads low..high of one region."""
    lines = [
        f'define internal i32 @"run.{name}.{index}"'
        "(ptr noundef align 64 dereferenceable(256) %cta, i32 %low, i32 %high) nounwind {",
        "entry:",
        '%zero = load ptr, ptr @"ringflow.zero", !invariant.load !0',
        f"%ps = getelementptr i8, ptr %cta, i64 {cta.UNIT_STRIDE}",
        "%stride32 = load i32, ptr %ps, !invariant.load !0",
        "%stride = zext i32 %stride32 to i64",
        f"%px = getelementptr i8, ptr %cta, i64 {cta.BLOCK_X}",
        "%bx = load i32, ptr %px, !invariant.load !0",
        f"%py = getelementptr i8, ptr %cta, i64 {cta.BLOCK_Y}",
        "%by = load i32, ptr %py, !invariant.load !0",
        f"%states = getelementptr inbounds i8, ptr %cta, i64 {cta.HEADER_BYTES}",
        *_hoisted(scalar, vector),
        "br label %row",
        "row:",
        "%t = phi i32 [ %low, %entry ], [ %t.next, %next ]",
        "%min = phi i32 [ -1, %entry ], [ %min.next, %next ]",
        "%max = phi i32 [ 0, %entry ], [ %max.next, %next ]",
        "%flags = phi i32 [ 0, %entry ], [ %flags.next, %next ]",
        "%r = udiv i32 %t, %bx",
        "%x0 = urem i32 %t, %bx",
        "%y = urem i32 %r, %by",
        "%z = udiv i32 %r, %by",
        "%left = sub i32 %bx, %x0",
        "%rest = sub i32 %high, %t",
        "%short = icmp ult i32 %left, %rest",
        "%n = select i1 %short, i32 %left, i32 %rest",
    ]
    sources = ["scalar"]
    if vector is not None:
        sources.append("vector")
        lines += [f"%wide = icmp uge i32 %n, {_WIDE_MIN}"]
        lines += ["br i1 %wide, label %check, label %scalar.pre"]
        lines += _check_text(vector)
        lines += _loop_text("vector", vector, "!3")
    else:
        lines += ["br label %scalar.pre"]
    lines += _loop_text("scalar", scalar, "!4")
    lines += ["next:"]
    for which in ("min", "max", "flags"):
        merged = ", ".join(f"[ %{s}.{which}.out, %{s}.loop ]" for s in sources)
        lines.append(f"%{which}.next = phi i32 {merged}")
    lines += [
        "%t.next = add i32 %t, %n",
        "%more = icmp ult i32 %t.next, %high",
        "br i1 %more, label %row, label %done",
        "done:",
        "%same = icmp eq i32 %min.next, %max.next",
        f"%word = select i1 %same, i32 %min.next, i32 {cta.STATE_MIXED}",
        "%result = or i32 %word, %flags.next",
        "ret i32 %result",
        "}",
    ]
    return "\n".join(lines)


def _hoisted(scalar: RegionEmitter, vector: RegionEmitter | None) -> list[str]:
    """Load what the bodies take as arguments, once for both forms."""
    both = {**scalar.hoisted, **(vector.hoisted if vector is not None else {})}
    lines: list[str] = []
    for _, texts in sorted(both.values(), key=lambda value: "%zero" in value[1][0]):
        lines += texts
    return lines


def _check_text(vector: RegionEmitter) -> list[str]:
    """Prove that the registers taken as affine are so in this row."""
    lines = ["check:", "%t64 = zext i32 %t to i64"]
    names = vector.arguments
    if not names:
        return [*lines, "br label %vector.pre"]
    for number, name in enumerate(names):
        bits = vector.slot_bits(name)
        lines += _unit_pointer(f"s{number}", vector.plan.spills[name], bits, "%t64")
        lines.append(f"%base{number} = load i{bits}, ptr %s{number}")
    lines += ["br label %check.loop", "check.loop:"]
    lines.append("%ci = phi i32 [ 0, %check ], [ %ci.next, %check.loop ]")
    lines.append("%bad = phi i64 [ 0, %check ], [ %bad.next, %check.loop ]")
    lines.append("%ci64 = zext i32 %ci to i64")
    total = "%bad"
    for number, name in enumerate(names):
        bits = vector.slot_bits(name)
        index = "%ci" if bits == 32 else "%ci64"
        factor = vector.plan.coefficients[name]
        lines += [
            f"%v{number}.p = getelementptr inbounds i{bits}, ptr %s{number}, i64 %ci64",
            f"%v{number} = load i{bits}, ptr %v{number}.p",
            f"%v{number}.s = mul i{bits} {index}, {factor}",
            f"%v{number}.e = add i{bits} %base{number}, %v{number}.s",
            f"%v{number}.x = xor i{bits} %v{number}, %v{number}.e",
        ]
        value = f"%v{number}.x"
        if bits == 32:
            lines.append(f"%v{number}.w = zext i32 %v{number}.x to i64")
            value = f"%v{number}.w"
        lines.append(f"%bad{number} = or i64 {total}, {value}")
        total = f"%bad{number}"
    lines += [
        f"%bad.next = add i64 {total}, 0",
        "%ci.next = add nuw nsw i32 %ci, 1",
        "%ci.more = icmp ult i32 %ci.next, %n",
        "br i1 %ci.more, label %check.loop, label %checked",
        "checked:",
        "%wrong = icmp ne i64 %bad.next, 0",
        "br i1 %wrong, label %scalar.pre, label %vector.pre",
    ]
    return lines


def _loop_text(form: str, emitter: RegionEmitter, metadata: str) -> list[str]:
    f = form
    lines = [f"{f}.pre:", f"br label %{f}.loop", f"{f}.loop:"]
    lines += [
        f"%{f}.i = phi i32 [ 0, %{f}.pre ], [ %{f}.i.next, %{f}.loop ]",
        *(
            f"%{f}.{which} = phi i32 [ %{which}, %{f}.pre ], [ %{f}.{which}.out, %{f}.loop ]"
            for which in ("min", "max", "flags")
        ),
        f"%{f}.t = add nuw nsw i32 %t, %{f}.i",
        f"%{f}.x = add nuw nsw i32 %x0, %{f}.i",
    ]
    arguments = ""
    for number, name in enumerate(emitter.arguments):
        width, bits = emitter.width(name), emitter.slot_bits(name)
        factor = emitter.plan.coefficients[name]
        index = f"%{f}.i"
        if bits == 64:
            lines.append(f"%{f}.w{number} = zext i32 %{f}.i to i64")
            index = f"%{f}.w{number}"
        lines.append(f"%{f}.s{number} = mul i{bits} {index}, {factor}")
        lines.append(f"%{f}.v{number} = add i{bits} %base{number}, %{f}.s{number}")
        value = f"%{f}.v{number}"
        if width != bits:
            lines.append(f"%{f}.c{number} = trunc i{bits} {value} to i{width}")
            value = f"%{f}.c{number}"
        arguments += f", i{width} {value}"
    arguments += "".join(f", {kind} {name}" for name, (kind, _) in emitter.hoisted.items())
    access = emitter.memory_metadata
    lines += [
        f"%{f}.word = call i32 {emitter.name()}(ptr %cta, ptr %zero, i64 %stride, "
        f"i32 %{f}.t, i32 %{f}.x, i32 %y, i32 %z{arguments})",
        f"%{f}.state = and i32 %{f}.word, {cta.STATE_MASK}",
        f"%{f}.t64 = zext i32 %{f}.t to i64",
        f"%{f}.p = getelementptr inbounds i32, ptr %states, i64 %{f}.t64",
        f"store i32 %{f}.state, ptr %{f}.p{access}",
        f"%{f}.less = icmp ult i32 %{f}.state, %{f}.min",
        f"%{f}.min.out = select i1 %{f}.less, i32 %{f}.state, i32 %{f}.min",
        f"%{f}.more = icmp ugt i32 %{f}.state, %{f}.max",
        f"%{f}.max.out = select i1 %{f}.more, i32 %{f}.state, i32 %{f}.max",
        f"%{f}.flag = and i32 %{f}.word, {cta.FLAG_EFFECT | cta.FLAG_OUT_OF_FUEL}",
        f"%{f}.flags.out = or i32 %{f}.flags, %{f}.flag",
        f"%{f}.i.next = add nuw nsw i32 %{f}.i, 1",
        f"%{f}.again = icmp ult i32 %{f}.i.next, %n",
        f"br i1 %{f}.again, label %{f}.loop, label %next, !llvm.loop {metadata}",
    ]
    return lines
