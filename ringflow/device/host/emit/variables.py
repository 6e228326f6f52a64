"""Module-level variables as LLVM globals."""

from __future__ import annotations

from ringflow.device.host.ptx.ast import Module, Variable
from ringflow.errors import UnsupportedPtxError


def variable_text(variable: Variable, module: Module, inlined: frozenset[str]) -> str:
    """Return the definition of a ``.global`` or ``.const`` variable.

    Raises:
        UnsupportedPtxError: its initial value names something that is not defined here.
    """
    pieces: list[str] = []
    at = 0
    run = bytearray()

    def flush() -> None:
        if run:
            data = "".join(f"\\{byte:02X}" for byte in run)
            pieces.append(f'[{len(run)} x i8] c"{data}"')
            run.clear()

    for item in variable.initial:
        run.extend(bytes(item.offset_bytes - at))
        at = item.offset_bytes + len(item.data)
        if item.symbol is None:
            run.extend(item.data)
            continue
        flush()
        if item.symbol in inlined:
            detail = "the address of a function that is inlined"
            raise UnsupportedPtxError(item.symbol, variable.line, detail)
        pieces.append(_address(item.symbol, int.from_bytes(item.data, "little"), module, variable))
    if variable.size_bytes > at:
        if len(run) < 4096 and variable.size_bytes - at < 4096:
            run.extend(bytes(variable.size_bytes - at))
            flush()
        else:
            flush()
            pieces.append(f"[{variable.size_bytes - at} x i8] zeroinitializer")
    flush()
    kinds = ", ".join(piece.split("]")[0] + "]" if piece[0] == "[" else "i64" for piece in pieces)
    value = f"<{{ {', '.join(pieces)} }}>"
    align = max(variable.align_bytes, 16)
    return f'@"g.{variable.name}" = global <{{ {kinds} }}> {value}, align {align}'


def _address(symbol: str, offset_bytes: int, module: Module, variable: Variable) -> str:
    if symbol in module.variables and module.variables[symbol].space in ("global", "const"):
        name = f'@"g.{symbol}"'
    elif symbol in module.functions and module.functions[symbol].body is not None:
        name = f'@"f.{symbol}"'
    else:
        raise UnsupportedPtxError(symbol, variable.line, "in an initial value")
    if not offset_bytes:
        return f"i64 ptrtoint (ptr {name} to i64)"
    return f"i64 ptrtoint (ptr getelementptr (i8, ptr {name}, i64 {offset_bytes}) to i64)"
