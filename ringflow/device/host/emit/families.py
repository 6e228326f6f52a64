"""Which emitter takes which instruction."""

from __future__ import annotations

from ringflow.device.host.emit.bits import BITS
from ringflow.device.host.emit.convert import CONVERT
from ringflow.device.host.emit.core import Emitter
from ringflow.device.host.emit.floating import FLOATING
from ringflow.device.host.emit.integer import INTEGER
from ringflow.device.host.emit.memory import MEMORY
from ringflow.device.host.ptx.ast import Instruction


def emit_plain(emitter: Emitter, ins: Instruction) -> None:
    """Emit an instruction that neither branches nor suspends.

    Raises:
        UnsupportedPtxError: no family has it.
    """
    root = ins.parts[0]
    emitter.ins = ins
    if root in MEMORY:
        family = MEMORY[root]
    elif root in CONVERT:
        family = CONVERT[root]
    elif ins.parts[-1] in ("f16", "f32", "f64") and root in FLOATING:
        family = FLOATING[root]
    elif root in BITS:
        family = BITS[root]
    elif root in INTEGER:
        family = INTEGER[root]
    else:
        raise emitter.unsupported(ins)
    try:
        emitter.guarded(ins.guard, lambda: family(emitter, ins))
    except (IndexError, KeyError, ValueError) as error:
        raise emitter.unsupported(ins, f"its operands do not fit ({error})") from None
