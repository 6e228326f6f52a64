"""Barriers and warp collectives: what a thread leaves in its mailbox, and what it finds there.

Mailbox: A the value, B lane or count, C clamp or a barrier's number, D member mask; afterwards A
the result, B the predicate. The runtime works out the results when all the threads that take part
have arrived.
"""

from __future__ import annotations

from typing import Final

from ringflow.device.host.emit.core import Emitter
from ringflow.device.host.ptx.ast import Immediate, Instruction, Operand, Pair

MAIL_A, MAIL_B, MAIL_C, MAIL_D = 1, 2, 3, 4

NONE: Final = 0
BARRIER: Final = 1
BARRIER_POPC: Final = 2
BARRIER_AND: Final = 3
BARRIER_OR: Final = 4
BARRIER_ARRIVE: Final = 5
WARP_SYNC: Final = 8
SHUFFLE: Final = {"up": 9, "down": 10, "bfly": 11, "idx": 12}
VOTE: Final = {"all": 13, "any": 14, "uni": 15, "ballot": 16}
MATCH_ANY: Final = {32: 17, 64: 18}
ACTIVE_MASK: Final = 19
REDUCE: Final = {
    "add": 20,
    "and": 21,
    "or": 22,
    "xor": 23,
    "min.u32": 24,
    "max.u32": 25,
    "min.s32": 26,
    "max.s32": 27,
}
MATCH_ALL: Final = {32: 28, 64: 29}
_ANY_BARRIER: Final = 16
"""The constant of a barrier whose number lies in the mailbox."""
_BARRIER_RED: Final = {"popc": BARRIER_POPC, "and": BARRIER_AND, "or": BARRIER_OR}


class Collective:
    """One collective: its code, a constant, and its operands by mailbox."""

    def __init__(self, code: int, constant: int, mail: dict[int, tuple[Operand, int]]) -> None:
        self.code = code
        self.constant = constant
        self.mail = mail


def _numbered(
    emitter: Emitter,
    ins: Instruction,
    code: int,
    operand: Operand,
    mail: dict[int, tuple[Operand, int]],
) -> Collective:
    """Return a barrier whose number is a constant, or a register's value."""
    if not isinstance(operand, Immediate):
        return Collective(code, _ANY_BARRIER, {**mail, MAIL_C: (operand, 32)})
    if not 0 <= operand.value < 16:
        raise emitter.unsupported(ins, "a barrier whose number is not in 0..15")
    return Collective(code, operand.value, mail)


def _barrier(emitter: Emitter, ins: Instruction) -> Collective:
    parts = [part for part in ins.parts[1:] if part not in ("cta", "aligned")]
    operands = ins.operands
    if parts == ["warp", "sync"]:
        return Collective(WARP_SYNC, 0, {MAIL_D: (operands[0], 32)})
    if parts in (["sync"], ["arrive"]):
        count = operands[1] if len(operands) > 1 else Immediate(0)
        code = BARRIER
        if parts == ["arrive"]:
            code = BARRIER_ARRIVE
            if count == Immediate(0):
                raise emitter.unsupported(ins, "it names no number of threads")
        return _numbered(emitter, ins, code, operands[0], {MAIL_B: (count, 32)})
    kinds = ("pred",) if parts[1:2] != ["popc"] else ("u32",)
    if len(parts) == 3 and parts[0] == "red" and parts[1] in _BARRIER_RED and parts[2] in kinds:
        count = operands[2] if len(operands) > 3 else Immediate(0)
        mail = {MAIL_A: (operands[-1], 1), MAIL_B: (count, 32)}
        return _numbered(emitter, ins, _BARRIER_RED[parts[1]], operands[1], mail)
    raise emitter.unsupported(ins)


def _match(emitter: Emitter, ins: Instruction) -> Collective:
    if ins.parts[1] not in ("any", "all") or ins.parts[2:] not in (
        ("sync", "b32"),
        ("sync", "b64"),
    ):
        raise emitter.unsupported(ins)
    every = ins.parts[1] == "all"
    if isinstance(ins.operands[0], Pair) and not every:
        raise emitter.unsupported(ins, "a predicate with .any")
    bits = int(ins.parts[3][1:])
    code = (MATCH_ALL if every else MATCH_ANY)[bits]
    return Collective(code, 0, {MAIL_A: (ins.operands[1], bits), MAIL_D: (ins.operands[2], 32)})


def _warp(emitter: Emitter, ins: Instruction) -> Collective:
    parts, operands = ins.parts, ins.operands
    root = parts[0]
    if root == "activemask" and parts[1:] == ("b32",):
        return Collective(ACTIVE_MASK, 0, {})
    if root == "match":
        return _match(emitter, ins)
    if len(parts) < 4 or parts[1] != "sync":
        raise emitter.unsupported(ins, "a collective without .sync")
    if root == "shfl" and parts[2] in SHUFFLE and parts[3] == "b32":
        mail = dict(
            zip((MAIL_A, MAIL_B, MAIL_C, MAIL_D), ((o, 32) for o in operands[1:]), strict=True)
        )
        return Collective(SHUFFLE[parts[2]], 0, mail)
    if root == "vote" and parts[2] in VOTE:
        if parts[3] != ("b32" if parts[2] == "ballot" else "pred"):
            raise emitter.unsupported(ins)
        return Collective(VOTE[parts[2]], 0, {MAIL_A: (operands[1], 1), MAIL_D: (operands[2], 32)})
    if root == "redux" and len(parts) == 4:
        name = parts[2] if parts[2] in REDUCE else f"{parts[2]}.{parts[3]}"
        bitwise = parts[2] in ("and", "or", "xor")
        if name in REDUCE and (parts[3] == "b32") == bitwise and parts[3][1:] == "32":
            mail = {MAIL_A: (operands[1], 32), MAIL_D: (operands[2], 32)}
            return Collective(REDUCE[name], 0, mail)
    raise emitter.unsupported(ins)


def collective_of(emitter: Emitter, ins: Instruction) -> Collective:
    """Return what a suspending instruction means.

    Raises:
        UnsupportedPtxError: the host device does not have it.
    """
    emitter.ins = ins
    try:
        if ins.parts[0] in ("bar", "barrier"):
            return _barrier(emitter, ins)
        return _warp(emitter, ins)
    except (IndexError, ValueError):
        raise emitter.unsupported(ins, "its operands do not fit") from None


def take_result(emitter: Emitter, ins: Instruction, value: str, predicate: str) -> None:
    """Write a collective's result (i32) and predicate (i32) to its destinations."""
    if ins.parts[0] in ("bar", "barrier") and "red" not in ins.parts:
        return
    emitter.ins = ins
    target = ins.operands[0]
    if isinstance(target, Pair):
        emitter.write(target.first, value, 32)
        if target.second is not None:
            emitter.write(target.second, emitter.value(f"icmp ne i32 {predicate}, 0"), 1)
    elif ins.parts[-1] == "pred":
        emitter.write(target, emitter.value(f"icmp ne i32 {value}, 0"), 1)
    else:
        emitter.write(target, value, 32)
