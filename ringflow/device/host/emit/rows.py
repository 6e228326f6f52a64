"""The loops over threads, and the two forms of a thread's code that they run.

- ``run.NAME.k(cta, low, high)`` runs region k for threads low..high, which all wait there, stores
  their state words and returns the word they share, or MIXED, with the flags of all.
- Rows of threads with equal y and z run in the vector form where it exists and the guessed affine
  registers prove to be affine; else thread by thread in the scalar form.
"""

from __future__ import annotations

from ringflow.device.host import cta
from ringflow.device.host.control_flow.loops import LoopKind
from ringflow.device.host.control_flow.names import reads, writes
from ringflow.device.host.control_flow.plan import Plan, Region
from ringflow.device.host.emit.core import ModuleContext
from ringflow.device.host.emit.region import Memory, RegionEmitter

_WIDE_MIN = 8
"""Fewer threads than this run thread by thread."""


class VectorEmitter(RegionEmitter):
    """One region, to be inlined in a loop over threads."""

    memory_metadata = ", !llvm.access.group !1"

    def __init__(self, context: ModuleContext, plan: Plan, memory: Memory, region: Region) -> None:
        super().__init__(context, plan, memory)
        self.region = region
        self.members = plan.members(region, vector=True)
        self.arguments = [n for n in self._used() if n in plan.coefficients]
        self.written = frozenset(
            name
            for index in self.members
            for statement in plan.blocks[index].statements
            for name in writes(statement, self.function.registers)
        )

    def _used(self) -> list[str]:
        """Return the spilled registers that the region reads from where it was entered."""
        blocks = [self.plan.blocks[index] for index in self.members]
        found = {name for block in blocks for name in block.reads_of_terminator()}
        found.update(name for block in blocks for s in block.statements for name in reads(s))
        return [name for name in self.spilled_at(self.region) if name in found]

    def name(self) -> str:
        return f'@"vector.{self.function.name}.{self.region.index}"'

    def text(self) -> str:
        """Return the function's LLVM IR."""
        self.enter(self.region)
        self.branch(f"b{self.region.block}")
        for index in self.members:
            self.block(index)
        for region in self.exits.values():
            self._leave_for(region)
        affine = "".join(f", i{self.width(n)} %a{i}" for i, n in enumerate(self.arguments))
        head = f"define internal i32 {self.name()}({self.parameters()}{affine})"
        return self.assemble(f"{head} alwaysinline nounwind {{", [], self.lines)

    def edge(self, index: int, target: int) -> str:
        if self.plan.crossing((index, target), vector=True) is None:
            return f"b{target}"
        return self.way_out(self.plan.by_block[target])

    def _leave_for(self, region: Region) -> None:
        self.place(f"leave{region.index}")
        for name in self.spilled_at(region):
            if not self._is_unchanged(name):
                pointer, bits, value = self.spill(name)
                self.emit(f"store i{bits} {value}, ptr {pointer}{self.memory_metadata}")
        self.finish(str(region.word))

    def _is_unchanged(self, name: str) -> bool:
        """Whether the slot still holds the register's value since the region was entered."""
        return (
            self.region.index != 0
            and name in self.spilled_at(self.region)
            and name not in self.written
        )


class ScalarEmitter(RegionEmitter):
    """The whole kernel for one thread, entered at any region."""

    def __init__(self, context: ModuleContext, plan: Plan, memory: Memory) -> None:
        super().__init__(context, plan, memory)
        self.polls = any(region.word & cta.STATE_POLL for region in plan.regions)
        self.fuelled = plan.preempt and any(
            kind is not LoopKind.POLL for kind in plan.cuts.values()
        )
        if self.polls:
            self.allocas["%effect"] = "i1"
        if self.fuelled:
            self.allocas["%fuel"] = "i32"

    def name(self) -> str:
        return f'@"scalar.{self.function.name}"'

    def text(self) -> str:
        """Return the function's LLVM IR."""
        cases = " ".join(f"i32 {r.index}, label %enter{r.index}" for r in self.plan.regions[1:])
        self.emit(f"switch i32 %region, label %enter0 [ {cases} ]")
        for region in self.plan.regions:
            self.place(f"enter{region.index}")
            self.enter(region)
            self.branch(f"b{region.block}")
        for index in self.plan.alive:
            self.block(index)
            self._fuel_checks(index)
        for region in self.exits.values():
            self._leave_for(region)
        first = ["store i1 false, ptr %effect"] if self.polls else []
        if self.fuelled:
            first += [
                f"%pf = getelementptr i8, ptr %cta, i64 {cta.FUEL}",
                "%f0 = load i32, ptr %pf",
                "store i32 %f0, ptr %fuel",
            ]
        head = f"define internal i32 {self.name()}(i32 %region, {self.parameters()}) nounwind {{"
        return self.assemble(head, first, self.lines)

    def note_effect(self) -> None:
        if self.polls:
            self.emit("store i1 true, ptr %effect")

    def edge(self, index: int, target: int) -> str:
        kind = self.plan.crossing((index, target), vector=False)
        if kind is None:
            return f"b{target}"
        label = self.way_out(self.plan.by_block[target])
        return f"fuel{index}.{target}" if kind is LoopKind.FUEL else label

    def _fuel_checks(self, index: int) -> None:
        """Emit the blocks on the edges that use up fuel."""
        for target in self.plan.blocks[index].successors():
            if self.plan.crossing((index, target), vector=False) is not LoopKind.FUEL:
                continue
            self.place(f"fuel{index}.{target}")
            before = self.value("load i32, ptr %fuel")
            after = self.value(f"sub i32 {before}, 1")
            self.emit(f"store i32 {after}, ptr %fuel")
            empty = self.value(f"icmp slt i32 {after}, 0")
            leave = self.way_out(self.plan.by_block[target])
            self.emit(f"br i1 {empty}, label %{leave}, label %b{target}, !prof !2")

    def _leave_for(self, region: Region) -> None:
        self.place(f"leave{region.index}")
        polls = bool(region.word & cta.STATE_POLL)
        changed = "false"
        for name in self.spilled_at(region):
            pointer, bits, value = self.spill(name)
            if polls:
                old = self.value(f"load i{bits}, ptr {pointer}")
                differs = self.value(f"icmp ne i{bits} {old}, {value}")
                changed = self.value(f"or i1 {changed}, {differs}")
            self.emit(f"store i{bits} {value}, ptr {pointer}")
        word = str(region.word)
        if polls:
            effect = self.value("load i1, ptr %effect")
            effect = self.value(f"or i1 {effect}, {changed}")
            flag = self.value(f"select i1 {effect}, i32 {cta.FLAG_EFFECT}, i32 0")
            word = self.value(f"or i32 {flag}, {word}")
        self.finish(word)

    def finish(self, word: str) -> None:
        if self.fuelled:
            left = self.value("load i32, ptr %fuel")
            self.emit(f"store i32 {left}, ptr %pf")
            empty = self.value(f"icmp slt i32 {left}, 0")
            flag = self.value(f"select i1 {empty}, i32 {cta.FLAG_OUT_OF_FUEL}, i32 0")
            word = self.value(f"or i32 {flag}, {word}")
        self.emit(f"ret i32 {word}")


def _unit_pointer(name: str, unit: int, bits: int, thread: str) -> list[str]:
    return [
        f"%{name}.m = mul nuw nsw i64 %stride, {unit}",
        f"%{name}.n = add nuw nsw i64 %{name}.m, {cta.HEADER_BYTES}",
        f"%{name}.o = getelementptr inbounds i8, ptr %cta, i64 %{name}.n",
        f"%{name} = getelementptr inbounds i{bits}, ptr %{name}.o, i64 {thread}",
    ]


def scalar_door(name: str, index: int) -> str:
    """Return ``run`` for a region that has no vector form."""
    return "\n".join(
        [
            f'define internal i32 @"run.{name}.{index}"(ptr %cta, i32 %low, i32 %high) nounwind {{',
            f'%r = tail call i32 @"rows.{name}"(ptr %cta, i32 %low, i32 %high, i32 {index})',
            "ret i32 %r",
            "}",
        ]
    )


def rows_text(name: str, scalar: ScalarEmitter, vector: VectorEmitter | None) -> str:
    """Return the loop over threads low..high: of one region's vector form, or the scalar one's."""
    if vector is None:
        function, extra = f'@"rows.{name}"', ", i32 %region"
    else:
        function, extra = f'@"run.{name}.{vector.region.index}"', ""
    emitter = scalar if vector is None else vector
    lines = [
        f"define internal i32 {function}(ptr noundef align 64 dereferenceable(256) %cta, "
        f"i32 %low, i32 %high{extra}) nounwind noinline {{",
        "entry:",
        '%zero = load ptr, ptr @"ringflow.zero", !invariant.load !0',
        *_header("stride32", cta.UNIT_STRIDE),
        "%stride = zext i32 %stride32 to i64",
        *_header("bx", cta.BLOCK_X),
        *_header("by", cta.BLOCK_Y),
        f"%states = getelementptr inbounds i8, ptr %cta, i64 {cta.HEADER_BYTES}",
        *_hoisted(emitter),
        "br label %row",
        *_ROW,
    ]
    sources = [("loop", "loop")]
    if vector is not None:
        lines += [f"%wide = icmp uge i32 %n, {_WIDE_MIN}"]
        lines += ["br i1 %wide, label %check, label %narrow"]
        lines += _check_text(vector)
        lines += _narrow(name, vector.region.index)
        sources.append(("narrow", "narrow"))
    else:
        lines += ["br label %pre"]
    lines += _loop_text(emitter, "!4" if vector is None else "!3")
    lines += ["next:"]
    for which in ("min", "max", "flags"):
        merged = ", ".join(f"[ %{s}.{which}, %{block} ]" for s, block in sources)
        lines.append(f"%{which}.next = phi i32 {merged}")
    return "\n".join([*lines, *_END])


_ROW = (
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
)
_END = (
    "%t.next = add i32 %t, %n",
    "%more = icmp ult i32 %t.next, %high",
    "br i1 %more, label %row, label %done",
    "done:",
    "%same = icmp eq i32 %min.next, %max.next",
    f"%word = select i1 %same, i32 %min.next, i32 {cta.STATE_MIXED}",
    "%result = or i32 %word, %flags.next",
    "ret i32 %result",
    "}",
)


def _header(name: str, offset: int) -> list[str]:
    return [
        f"%p.{name} = getelementptr i8, ptr %cta, i64 {offset}",
        f"%{name} = load i32, ptr %p.{name}, !invariant.load !0",
    ]


def _narrow(name: str, index: int) -> list[str]:
    """Run a row thread by thread; a mixed word makes minimum and maximum differ."""
    return [
        "narrow:",
        "%t.end = add i32 %t, %n",
        f'%narrow.got = call i32 @"rows.{name}"(ptr %cta, i32 %t, i32 %t.end, i32 {index})',
        f"%narrow.state = and i32 %narrow.got, {cta.STATE_MASK}",
        "%narrow.less = icmp ult i32 %narrow.state, %min",
        "%narrow.min = select i1 %narrow.less, i32 %narrow.state, i32 %min",
        "%narrow.more = icmp ugt i32 %narrow.state, %max",
        "%narrow.max = select i1 %narrow.more, i32 %narrow.state, i32 %max",
        f"%narrow.flag = and i32 %narrow.got, {cta.FLAG_EFFECT | cta.FLAG_OUT_OF_FUEL}",
        "%narrow.flags = or i32 %flags, %narrow.flag",
        "br label %next",
    ]


def _hoisted(emitter: RegionEmitter) -> list[str]:
    """Load what the body takes as arguments, header words before parameters."""
    lines: list[str] = []
    for _, texts in sorted(emitter.hoisted.values(), key=lambda value: "%zero" in value[1][0]):
        lines += texts
    return lines


def _check_text(vector: RegionEmitter) -> list[str]:
    """Prove that the registers taken as affine are so in this row."""
    lines = ["check:", "%t64 = zext i32 %t to i64"]
    names = vector.arguments
    if not names:
        return [*lines, "br label %pre"]
    for number, name in enumerate(names):
        bits = vector.slot_bits(name)
        lines += _unit_pointer(f"s{number}", vector.plan.spills[name], bits, "%t64")
        lines.append(f"%base{number} = load i{bits}, ptr %s{number}")
    lines += ["br label %check.loop", "check.loop:"]
    lines.append("%ci = phi i32 [ 0, %check ], [ %ci.next, %check.loop ]")
    for bits in (32, 64):
        lines.append(f"%bad{bits} = phi i{bits} [ 0, %check ], [ %bad{bits}.next, %check.loop ]")
    lines.append("%ci64 = zext i32 %ci to i64")
    totals = {32: "%bad32", 64: "%bad64"}
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
            f"%w{number} = or i{bits} {totals[bits]}, %v{number}.x",
        ]
        totals[bits] = f"%w{number}"
    lines += [
        f"%bad32.next = add i32 {totals[32]}, 0",
        f"%bad64.next = add i64 {totals[64]}, 0",
        "%ci.next = add nuw nsw i32 %ci, 1",
        "%ci.more = icmp ult i32 %ci.next, %n",
        "br i1 %ci.more, label %check.loop, label %checked",
        "checked:",
        "%wrong32 = icmp ne i32 %bad32.next, 0",
        "%wrong64 = icmp ne i64 %bad64.next, 0",
        "%wrong = or i1 %wrong32, %wrong64",
        "br i1 %wrong, label %narrow, label %pre",
    ]
    return lines


def _loop_text(emitter: RegionEmitter, metadata: str) -> list[str]:
    lines = ["pre:", "br label %loop", "loop:", "%i = phi i32 [ 0, %pre ], [ %i.next, %loop ]"]
    lines += [
        f"%{which}.i = phi i32 [ %{which}, %pre ], [ %loop.{which}, %loop ]"
        for which in ("min", "max", "flags")
    ]
    lines += ["%thread = add nuw nsw i32 %t, %i", "%x = add nuw nsw i32 %x0, %i"]
    arguments = "".join(f", {kind} {name}" for name, (kind, _) in emitter.hoisted.items())
    for number, name in enumerate(emitter.arguments):
        width, bits = emitter.width(name), emitter.slot_bits(name)
        index = "%i"
        if bits == 64:
            lines.append(f"%j{number} = zext i32 %i to i64")
            index = f"%j{number}"
        lines.append(f"%k{number} = mul i{bits} {index}, {emitter.plan.coefficients[name]}")
        lines.append(f"%l{number} = add i{bits} %base{number}, %k{number}")
        value = f"%l{number}"
        if width != bits:
            lines.append(f"%c{number} = trunc i{bits} {value} to i{width}")
            value = f"%c{number}"
        arguments += f", i{width} {value}"
    region = "i32 %region, " if isinstance(emitter, ScalarEmitter) else ""
    lines += [
        f"%got = call i32 {emitter.name()}({region}ptr %cta, ptr %zero, i64 %stride, "
        f"i32 %thread, i32 %x, i32 %y, i32 %z{arguments})",
        f"%state = and i32 %got, {cta.STATE_MASK}",
        "%thread64 = zext i32 %thread to i64",
        "%p = getelementptr inbounds i32, ptr %states, i64 %thread64",
        f"store i32 %state, ptr %p{emitter.memory_metadata}",
        "%less = icmp ult i32 %state, %min.i",
        "%loop.min = select i1 %less, i32 %state, i32 %min.i",
        "%greater = icmp ugt i32 %state, %max.i",
        "%loop.max = select i1 %greater, i32 %state, i32 %max.i",
        f"%flag = and i32 %got, {cta.FLAG_EFFECT | cta.FLAG_OUT_OF_FUEL}",
        "%loop.flags = or i32 %flags.i, %flag",
        "%i.next = add nuw nsw i32 %i, 1",
        "%again = icmp ult i32 %i.next, %n",
        f"br i1 %again, label %loop, label %next, !llvm.loop {metadata}",
    ]
    return lines
