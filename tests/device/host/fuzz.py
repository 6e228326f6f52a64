"""Random straight-line programs of the operations, as PTX, with their inputs."""

from __future__ import annotations

import random
from collections.abc import Mapping

import attrs
import numpy as np

from tests.device.host import operations_float, operations_integer
from tests.device.host.operations import BITS, OPERATIONS, TYPES, Array, Operation
from tests.device.host.programs import HEAD

__all__ = ["INPUTS", "OPERATIONS", "Array", "FuzzProgram", "make_inputs", "make_program"]
assert operations_float
assert operations_integer  # they add their operations


@attrs.frozen
class Step:
    """One operation of a program on values made before."""

    operation: Operation
    sources: tuple[int, ...]


@attrs.frozen
class FuzzProgram:
    """Values are numbered: the inputs first, then each step's result."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    typed: bool

    def kind(self, value: int) -> str:
        count = len(self.inputs)
        return self.inputs[value] if value < count else self.steps[value - count].operation.kinds[0]

    def register(self, value: int) -> str:
        return f"%{self.kind(value)}{value}"

    def ptx(self) -> str:
        """Return a module with ``k(in, out, n)``: uint64[inputs, n] and uint64[steps, n]."""
        count = len(self.inputs)
        types = {"r": "b32", "d": "b64", "f": "b32", "g": "b64", "p": "pred"}
        if self.typed:
            types |= {"r": "u32", "d": "s64", "f": "f32", "g": "f64"}
        lines = [
            f".reg .{types[self.kind(v)]} {self.register(v)};"
            for v in range(count + len(self.steps))
        ]
        for value, kind in enumerate(self.inputs):
            lines.append(f"ld.global.b{BITS[kind]} {self.register(value)}, [%in];")
            lines.append("add.u64 %in, %in, %step;")
        for number, step in enumerate(self.steps):
            value = count + number
            names = [self.register(v) for v in (value, *step.sources)]
            lines.append(step.operation.text.format(*names) + ";")
            kind = step.operation.kinds[0]
            if kind == "p":
                lines.append(f"selp.b32 %word, 1, 0, {names[0]}; st.global.b32 [%out], %word;")
            else:
                lines.append(f"st.global.b{BITS[kind]} [%out], {names[0]};")
            lines.append("add.u64 %out, %out, %step;")
        return _FRAME.replace("BODY", "\n".join(lines))

    def evaluate(self, inputs: list[Array]) -> list[Array]:
        """Return each step's result."""
        values = list(inputs)
        with np.errstate(all="ignore"):
            for step in self.steps:
                result = step.operation.value(*(values[v] for v in step.sources))
                values.append(np.asarray(result).astype(TYPES[step.operation.kinds[0]], copy=False))
        return values[len(inputs) :]


_FRAME = f"""{HEAD}
.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n)
{{
    .reg .b64 %in, %out, %step;
    .reg .b32 %i, %n, %word, %block;
    .reg .pred %outside;
    mov.u32 %block, %ctaid.x;
    mov.u32 %n, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.u32 %i, %block, %n, %i;
    ld.param.u32 %n, [n];
    setp.ge.u32 %outside, %i, %n;
    @%outside bra done;
    mul.wide.u32 %step, %n, 8;
    ld.param.u64 %in, [in];
    mad.wide.u32 %in, %i, 8, %in;
    ld.param.u64 %out, [out];
    mad.wide.u32 %out, %i, 8, %out;
BODY
done:
    ret;
}}
"""
INPUTS = tuple("rrrrdddfffggg")


def make_program(source: random.Random, step_count: int, names: list[str]) -> FuzzProgram:
    """Draw a program; later steps like the results of earlier ones."""
    kinds = list(INPUTS)
    steps: list[Step] = []
    while len(steps) < step_count:
        chosen = OPERATIONS[source.choice(names)]
        sources: list[int] = []
        for kind in chosen.kinds[1:]:
            known = [v for v, k in enumerate(kinds) if k == kind]
            if not known:
                break
            sources.append(source.choice(known[-8:] if source.random() < 0.7 else known))
        if len(sources) < len(chosen.kinds) - 1:
            continue
        steps.append(Step(chosen, tuple(sources)))
        kinds.append(chosen.kinds[0])
    return FuzzProgram(INPUTS, tuple(steps), typed=source.random() < 0.5)


_EDGES: Mapping[str, tuple[float, ...]] = {
    "r": (0, 1, 31, 32, 33, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00800000, 0x3F800000),
    "d": (0, 1, 63, 64, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 53) + 1),
    "f": (0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 1e-40, -1e-45, 3.4e38, np.inf, -np.inf, np.nan,
          2147483648.0, -2147483904.0, 16777217.0, 65504.0, 65520.0),
    "g": (0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 5e-324, 1e308, np.inf, -np.inf, np.nan, 1e-310,
          9.3e18, -9.3e18, 1.8446744073709552e19, 2147483647.5, 1.0000000596046448, 65519.99),
}  # fmt: skip


def make_inputs(seed: int, n: int) -> list[Array]:
    """Return one array an input: edges, and numbers of all sizes."""
    source = np.random.default_rng(seed)
    made: list[Array] = []
    for kind in INPUTS:
        bits = BITS[kind]
        words = source.integers(0, 1 << bits, n, dtype=TYPES["r" if bits == 32 else "d"])
        if kind in "rd":
            words >>= source.integers(0, bits, n).astype(words.dtype)
            values: Array = words
        else:
            scale = np.exp2(source.integers(-20, 40, n))
            near: Array = (source.standard_normal(n) * scale).astype(TYPES[kind])
            values = np.where(source.random(n) < 0.3, words.view(TYPES[kind]), near)
        edges: Array = np.array(_EDGES[kind], TYPES[kind])
        picks = edges[source.integers(0, len(edges), n)]
        made.append(np.where(source.random(n) < 0.3, picks, values).astype(TYPES[kind]))
    return made
