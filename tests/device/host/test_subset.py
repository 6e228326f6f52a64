"""docs/ptx-subset.md says what the translator does: each form in it is tried."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from ringflow.device.host import jit
from ringflow.device.host.control_flow.names import SUSPENDING
from ringflow.device.host.emit.bits import BITS
from ringflow.device.host.emit.convert import CONVERT
from ringflow.device.host.emit.floating import FLOATING
from ringflow.device.host.emit.integer import INTEGER
from ringflow.device.host.emit.memory import MEMORY
from ringflow.device.host.ptx.ast import TYPE_BYTES
from ringflow.device.host.ptx.parser import parse
from ringflow.device.host.translate import emit_module
from ringflow.errors import UnsupportedPtxError
from tests.device.host.programs import HEAD

PAGE = (Path(__file__).parents[3] / "docs" / "ptx-subset.md").read_text("utf-8")
CONTROL = frozenset({"bra", "brx", "call", "ret", "exit", "trap", "brkpt"})
REGISTERS = """.reg .b16 %h, %h1, %h2, %h3; .reg .b32 %r, %r1, %r2, %r3;
.reg .b64 %d, %d1, %d2, %d3; .reg .pred %p, %q;"""


def section(title: str) -> str:
    return re.split(r"^## ", PAGE, flags=re.MULTILINE)[
        ["", "In", "Approximate", "Out"].index(title)
    ]


def expanded(form: str) -> list[str]:
    """Return the opcodes that a form stands for."""
    match = re.search(r"\[([^\[\]]*)\]", form) or re.search(r"\{([^{}]*)\}", form)
    if match is None:
        return [form]
    inner = [match[1], ""] if match[0][0] == "[" else match[1].split(",")
    whole = [form[: match.start()] + choice + form[match.end() :] for choice in inner]
    return [opcode for each in whole for opcode in expanded(each)]


def opcodes(title: str) -> list[str]:
    """Return the opcodes of a section's table."""
    rows = [line.split("|")[1] for line in section(title).splitlines() if line.startswith("| `")]
    return [o for row in rows for form in re.findall(r"`([^`]+)`", row) for o in expanded(form)]


def register(kind: str, number: str = "") -> str:
    if kind == "pred":
        return "%p"
    return {1: "%h", 2: "%h", 4: "%r", 8: "%d"}[TYPE_BYTES[kind]] + number


def alike(kind: str, count: int) -> str:
    return ", ".join(register(kind) for _ in range(count))


SHAPES: dict[str, str] = {
    **dict.fromkeys(("add", "sub", "addc", "subc", "mul", "div", "rem", "min", "max"), "TTT"),
    **dict.fromkeys(("and", "or", "xor", "mul24", "copysign"), "TTT"),
    **dict.fromkeys(("mad", "madc", "fma", "sad", "mad24"), "TTTT"),
    **dict.fromkeys(("neg", "abs", "not", "cnot", "brev", "mov", "sqrt", "rcp", "rsqrt"), "TT"),
    **dict.fromkeys(("sin", "cos", "ex2", "lg2", "tanh", "cvta"), "TT"),
    **dict.fromkeys(("popc", "clz", "bfind"), "rT"),
    **dict.fromkeys(("shl", "shr"), "TTr"),
    **dict.fromkeys(("shf", "prmt", "dp4a", "dp2a"), "rrrr"),
    "bmsk": "rrr",
    "bfe": "TTrr",
    "bfi": "TTTrr",
    "lop3": "rrrr8",
    "testp": "pT",
    "selp": "TTTp",
    "isspacep": "pd",
    "ld": "Tm",
    "ldu": "Tm",
    "st": "mT",
    "atom": "TmT",
    "red": "mT",
    "shfl": "rrrrr",
    "redux": "rrr",
    "activemask": "r",
    "nanosleep": "r",
    **dict.fromkeys(("prefetch", "prefetchu"), "m"),
    **dict.fromkeys(("membar", "fence"), ""),
}
WHOLE = {
    "bra": "bra{} end;",
    "brx": "brx.idx{} %r, table;",
    "call": "call{} (%r), plain, (%r1);",
    "ret": "ret{};",
    "exit": "exit{};",
    "trap": "trap{};",
    "brkpt": "brkpt{};",
}


def special_operands(opcode: str, parts: list[str]) -> str | None:
    """Return the operands of instructions whose shape depends on more than their type."""
    root, kind = parts[0], parts[-1]
    if root in ("bar", "barrier"):
        if "warp" in parts:
            return "%r"
        if "red" in parts:
            return f"{'%r' if kind == 'u32' else '%p'}, %r1, 64, !%q"
        return "1, 64" if "arrive" in parts else "%r"
    if root in ("setp", "set"):
        target = "%p|%q" if root == "setp" else register(parts[-2])
        joined = {"and", "or", "xor"} & set(parts)
        return f"{target}, {alike(kind, 2)}{', %p' if joined else ''}"
    if root == "slct":
        return f"{alike(parts[-2], 3)}, %r"
    if root == "cvt":
        return f"{register(parts[-2])}, {register(kind)}"
    if root == "vote":
        return f"{'%r' if kind == 'b32' else '%p'}, %q, %r1"
    if root == "match":
        return f"{'%r|%p' if 'all' in parts else '%r'}, {register(kind, '1')}, %r2"
    if opcode.startswith("lop3.") and len(parts) == 3:
        return "%r|%p, %r1, %r2, %r3, 0x80, %q"
    if root == "ld" and "param" in parts:
        return f"{register(kind)}, [a]"
    if "wide" in parts:
        wide = register({"16": "b32", "32": "b64"}[kind[1:]])
        return ", ".join([wide, alike(kind, 2), *([wide] if root == "mad" else [])])
    if root in ("ld", "st") and {"v2", "v4"} & set(parts):
        count = 2 if "v2" in parts else 4
        items = "{" + ", ".join(register(kind, n) for n in ("", "1", "2", "3")[:count]) + "}"
        return f"{items}, [%d]" if root == "ld" else f"[%d], {items}"
    return None


def instruction(opcode: str) -> str:
    """Return an instruction of an opcode, with operands that fit."""
    parts = opcode.split(".")
    root = parts[0]
    if root in WHOLE:
        return WHOLE[root].format(".uni" if parts[-1] == "uni" else "")
    operands = special_operands(opcode, parts)
    if operands is None:
        kind = next((part for part in reversed(parts) if part in TYPE_BYTES), "b32")
        letters = {"T": register(kind), "r": "%r", "d": "%d", "p": "%p", "m": "[%d]", "8": "0x80"}
        operands = ", ".join(letters[letter] for letter in SHAPES[root])
        if "cas" in parts:
            operands += f", {register(kind)}"
    return f"{opcode} {operands};"


def kernel(lines: list[str]) -> str:
    body = "\n".join(lines)
    return f"""{HEAD}
.func (.param .b32 r) plain(.param .b32 x) {{ .reg .b32 %v; ld.param.b32 %v, [x];
st.param.b32 [r], %v; ret; }}
.visible .entry k(.param .u64 a)
{{
{REGISTERS}
table: .branchtargets end, next;
{body}
next:
end:
ret;
}}
"""


def verify(lines: list[str]) -> None:
    """Translate to LLVM IR and have LLVM check it."""
    jit.target_machine()
    _, text = emit_module(parse(kernel(lines)), frozenset(), True)
    llvm.parse_assembly(text).verify()


@pytest.mark.parametrize("title", ["In", "Approximate"])
def test_what_is_in_is_translated(title: str) -> None:
    """Every form, on its own line of a kernel."""
    lines = [instruction(opcode) for opcode in opcodes(title)]
    ends = [line for line in lines if line.split()[0].split(".")[0].rstrip(";") in CONTROL]
    rest = [line for line in lines if line not in ends]
    for first in range(0, len(rest), 200):
        verify(rest[first : first + 200])
    for line in ends:
        verify([line])


@pytest.mark.parametrize("opcode", opcodes("Out"))
def test_what_is_out_is_refused_by_name_and_line(opcode: str) -> None:
    """At load, never run wrong."""
    text = kernel([f"{opcode} %r, %r1, %r2;"])
    line = text.split("\n").index(f"{opcode} %r, %r1, %r2;") + 1
    with pytest.raises(UnsupportedPtxError) as caught:
        emit_module(parse(text), frozenset(), True)
    assert caught.value.line == line
    assert opcode in str(caught.value)


def test_every_instruction_that_the_code_has_is_listed() -> None:
    """What the emitters take stands in the tables, and nothing of it under Out alone."""
    listed = {opcode.split(".")[0] for title in ("In", "Approximate") for opcode in opcodes(title)}
    have = {*MEMORY, *CONVERT, *FLOATING, *BITS, *INTEGER, *SUSPENDING, *CONTROL}
    assert have == listed


def test_special_registers_are_listed() -> None:
    """Each can be read; others are refused."""
    (line,) = [x for x in PAGE.splitlines() if x.startswith("Special registers:")]
    names = [name for form in re.findall(r"`([^`]+)`", line) for name in expanded(form)]
    wide = ("%clock64", "%globaltimer", "%gridid")
    verify([f"mov.{'u64 %d' if name in wide else 'u32 %r'}, {name};" for name in names])
    for name in ("%clusterid.x", "%cluster_ctarank", "%envreg0", "%pm0", "%aggr_smem_size"):
        assert name not in names
        with pytest.raises(UnsupportedPtxError, match=name):
            verify([f"mov.u32 %r, {name};"])


def test_forms_expand() -> None:
    """The notation of the page."""
    assert expanded("a[.b].{c,d}{1,2}") == [
        f"a{b}.{c}{n}" for b, c, n in itertools.product((".b", ""), "cd", "12")
    ]
    assert expanded("x[.{a,b}].c") == ["x.a.c", "x.b.c", "x.c"]
