"""Which variables of a cubin are state: told by clang's PTX of the source, kept with the cubin.

- A cubin names its ``__device__`` variables, but not which of them the code writes to, or which
  hold addresses. The analysis of clang's PTX says that; the two are matched by name and size.
- One that the code writes to and that can't be matched leaves the state unlisted: then nothing is
  promised of it.
- What is known stands behind the ELF file, where loaders don't look, so that it goes wherever the
  code goes. Pure, but for ``state_of_source``, which compiles.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Final

import attrs

from ringflow.device.compiler.entries import cubin_variables
from ringflow.device.symbols import dtype_of, readable_names
from ringflow.errors import CompileError, CorruptError, DeviceError

_MARK: Final = b"ringflow-state-1"
_RULES: Final = "rules 3"  # raised with them: what is cached was made by the older ones
_TAIL: Final = struct.Struct("<Q")


@attrs.frozen
class CodeVariable:
    """A variable that code writes to.

    Attributes:
        symbol: its name in the cubin.
        name: the readable one, the same in code for any device.
        dtype: numpy's name of its elements' type; ``uint8`` where it is a struct.
    """

    symbol: str
    name: str
    dtype: str
    size_bytes: int


@attrs.frozen
class CodeState:
    """What a cubin keeps outside of its kernels' regions.

    Attributes:
        unlisted: why that is not all, or can't be carried elsewhere; empty where it can.
    """

    variables: tuple[CodeVariable, ...] = ()
    unlisted: str = ""


def with_state(cubin: bytes, state: CodeState) -> bytes:
    """Return a cubin with what is known of its state behind it."""
    text = json.dumps(attrs.asdict(state), sort_keys=True, separators=(",", ":")).encode()
    return cubin + text + _TAIL.pack(len(text)) + _MARK


def split_state(code: bytes) -> tuple[bytes, CodeState]:
    """Return a cubin as it was compiled, and its state.

    Without a note behind it, a cubin with variables has state that is not listed.
    Raises:
        CorruptError: the note is damaged.
    """
    if not code.endswith(_MARK):
        names = ", ".join(readable_names(cubin_variables(code)).values())
        return code, CodeState(
            unlisted=f"nothing is known of its variables ({names})" * bool(names)
        )
    try:
        end = len(code) - len(_MARK) - _TAIL.size
        (size_bytes,) = _TAIL.unpack_from(code, end)
        note = json.loads(code[end - size_bytes : end])
        variables = tuple(CodeVariable(**one) for one in note["variables"])
        return code[: end - size_bytes], CodeState(variables, note["unlisted"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"what is known of the cubin's variables is damaged: {error}; compile it again"
        ) from error


def state_of_source(
    cubin: bytes, source: str, *, name: str, headers: Mapping[str, str], deadline_s: float
) -> CodeState:
    """Return what a cubin keeps, from clang's PTX of its source; compiles only if it must."""
    variables = cubin_variables(cubin)
    if not variables:
        return CodeState()
    from ringflow.device.compiler.clang import compile_to_ptx

    try:
        ptx, _ = compile_to_ptx(source, name=name, headers=headers, deadline_s=deadline_s)
    except CompileError as error:
        return _unknown(variables, f"clang, which tells, refuses the source: {error.log}")
    except DeviceError as error:
        return _unknown(variables, f"only clang can tell which of them are state, and {error}")
    return matched(variables, ptx)


def teller_of_state() -> str:
    """Return what ``state_of_source`` depends on: its rules, and the compiler that it asks."""
    from ringflow.device.compiler.clang import find_clang

    try:
        return f"{_RULES} {find_clang().version}"
    except DeviceError:
        return _RULES


def _unknown(variables: Mapping[str, int], why: str) -> CodeState:
    names = ", ".join(readable_names(variables).values())
    return CodeState(unlisted=f"it has variables ({names}); {why}")


def matched(variables: Mapping[str, int], ptx: str) -> CodeState:
    """Return a cubin's state from its variables' sizes by symbol and PTX of the same source."""
    from ringflow.device.host.ptx.parser import parse
    from ringflow.device.host.ptx.state import state_of

    try:
        module = parse(ptx)
    except DeviceError as error:
        return _unknown(variables, f"the host device, which tells, can't read the code: {error}")
    state = state_of(module)
    symbols = {readable: symbol for symbol, readable in readable_names(variables).items()}
    found, reasons = [], []
    for name, readable in readable_names(module.variables).items():
        if name not in state.written:
            continue  # constants, and what no code refers to
        variable, symbol = module.variables[name], symbols.get(readable, "")
        if variables.get(symbol) != variable.size_bytes:
            reasons.append(f"variable {readable!r} can't be told from others")
        elif targets := state.addresses.get(name):
            held = ", ".join(readable_names(targets).values())
            reasons.append(
                f"variable {readable!r} holds the address of {held}, which is another one elsewhere"
            )
        else:
            dtype = dtype_of(variable.type)
            found.append(CodeVariable(symbol, readable, dtype, variable.size_bytes))
    return CodeState(tuple(found), "; ".join(reasons))
