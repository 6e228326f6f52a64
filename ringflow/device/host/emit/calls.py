"""Calls: to functions of the module, to mathematics, to given externs, and through registers.

- Every parameter and result travels as an integer of its size, floats as their bits.
- A function's LLVM name is ``f.NAME``, so that it never meets a C function of the same name.
"""

from __future__ import annotations

from ringflow.device.host.emit.core import Emitter
from ringflow.device.host.emit.mathematics import call_mathematics, is_mathematics
from ringflow.device.host.ptx.ast import Call, Function, Immediate, Prototype, Register, Variable
from ringflow.errors import PtxSyntaxError, UnsupportedPtxError

TRAP, BREAKPOINT, ASSERTION = 1, 2, 3
PRINT = "vprintf"
HIDDEN = "ptr %cta, i32 %thread"
"""Arguments of native functions whose module is guarded; see ``guarded.py``."""
_ASSERTION_FORMAT = "%s:%u: %s: assertion '%s' failed\\0A\\00"


def kind_of(variable: Variable) -> str:
    """Return the LLVM type that carries a parameter."""
    return f"i{max(variable.size_bytes, 1) * 8}"


def result_kind(prototype: Prototype) -> str:
    return kind_of(prototype.results[0]) if prototype.results else "void"


def signature(function: Function, *, names: bool, hidden: str = "") -> str:
    """Return ``i32 @"f.NAME"(i64 %a0, ...)``."""
    parameters = ", ".join(
        kind_of(variable) + (f" %a{index}" if names else "")
        for index, variable in enumerate(function.prototype.parameters)
    )
    parameters = ", ".join(filter(None, (hidden, parameters)))
    return f'{result_kind(function.prototype)} @"f.{function.name}"({parameters})'


def _variable(emitter: Emitter, name: str) -> Variable:
    variable = emitter.function.variables.get(name)
    if variable is None:
        raise PtxSyntaxError(emitter.line(), f"{name!r} is not declared")
    return variable


def _argument(emitter: Emitter, argument: str | Register | Immediate, formal: Variable) -> str:
    kind = kind_of(formal)
    if not isinstance(argument, str):
        return emitter.read(argument, int(kind[1:]))
    variable = _variable(emitter, argument)
    pointer, _ = emitter.parameter_pointer(variable, 0)
    return emitter.value(f"load {kind}, ptr {pointer}, align {variable.align_bytes}")


def _store_result(emitter: Emitter, call: Call, value: str, bits: int) -> None:
    name = call.results[0]
    if name in emitter.function.registers:
        emitter.write(Register(name), value, bits)
        return
    variable = _variable(emitter, name)
    pointer, _ = emitter.parameter_pointer(variable, 0)
    emitter.emit(f"store i{bits} {value}, ptr {pointer}, align {variable.align_bytes}")


def _prototype(emitter: Emitter, call: Call) -> Prototype:
    if isinstance(call.target, Register):
        found = emitter.function.prototypes.get(call.prototype or "")
        if found is None:
            raise UnsupportedPtxError("call", call.line, "through a register without a prototype")
        return found
    function = emitter.context.functions.get(call.target)
    if function is None:
        raise PtxSyntaxError(call.line, f"function {call.target!r} is not declared")
    return function.prototype


def emit_call(emitter: Emitter, call: Call) -> None:
    """Emit a call of a function that does not suspend.

    Raises:
        UnsupportedPtxError: the function is not defined here, not given, and not mathematics.
    """
    prototype = _prototype(emitter, call)
    if len(call.arguments) != len(prototype.parameters):
        raise PtxSyntaxError(call.line, "a call has another number of arguments than its function")
    arguments = [
        _argument(emitter, argument, formal)
        for argument, formal in zip(call.arguments, prototype.parameters, strict=True)
    ]
    kinds = [kind_of(formal) for formal in prototype.parameters]
    result = result_kind(prototype)
    typed = ", ".join(f"{k} {a}" for k, a in zip(kinds, arguments, strict=True))
    name = call.target
    if isinstance(name, Register) or emitter.context.functions[name].body is not None:
        value = _call_native(emitter, call, prototype, result, typed)
    elif name in emitter.context.given:
        value = emitter.extern(name, result, *typed.split(", ") if typed else ())
    elif name == PRINT and len(arguments) == 2:
        value = emitter.print_message(*arguments)
    elif is_mathematics(name):
        value = call_mathematics(emitter, name, arguments)
    else:
        raise UnsupportedPtxError(name, call.line, "a call of a function that is not defined")
    if call.results and value:
        _store_result(emitter, call, value, int(result[1:]))
    emitter.note_effect()


def emit_assertion(emitter: Emitter, call: Call) -> None:
    """Print what a failed assertion says: message, file, line and function come first."""
    assert isinstance(call.target, str)
    formals = emitter.context.functions[call.target].prototype.parameters
    pairs = list(zip(call.arguments, formals, strict=False))[:4]
    if [formal.size_bytes for _, formal in pairs] != [8, 8, 4, 8]:
        return
    message, file, line, function = (_argument(emitter, a, formal) for a, formal in pairs)
    text = _ASSERTION_FORMAT
    size = len(text) - 2 * text.count("\\")
    emitter.context.define(
        "ringflow.assertion",
        f'@"ringflow.assertion" = private constant [{size} x i8] c"{text}"',
    )
    place = emitter.stack("[4 x i64]")
    line = emitter.resize(line, 32, 64)
    for index, value in enumerate((file, line, function, message)):
        part = emitter.value(f"getelementptr i64, ptr {place}, i64 {index}")
        emitter.emit(f"store i64 {value}, ptr {part}")
    form = emitter.value('ptrtoint ptr @"ringflow.assertion" to i64')
    emitter.print_message(form, emitter.value(f"ptrtoint ptr {place} to i64"))


def _call_native(
    emitter: Emitter, call: Call, prototype: Prototype, result: str, typed: str
) -> str:
    """Call a function of the module, or what a register points to."""
    guarded = emitter.context.guarded
    if guarded:
        typed = ", ".join(filter(None, (HIDDEN, typed)))
    if isinstance(call.target, Register):
        address = emitter.read(call.target, 64)
        if emitter.context.memcheck:
            _check_target(emitter, address, prototype)
    if guarded:
        emitter.before_call()
    if isinstance(call.target, Register):
        value = _call_address(emitter, address, result, typed)
    else:
        value = _call_text(emitter, f'@"f.{call.target}"', result, typed)
    if guarded:
        emitter.after_call()
    return value


def _check_target(emitter: Emitter, address: str, prototype: Prototype) -> None:
    """Compare a pointer with the module's functions of the same parameters."""
    wanted = [kind_of(v) for v in (*prototype.results, *prototype.parameters)]
    known = "false"
    for function in emitter.context.functions.values():
        own = function.prototype
        kinds = [kind_of(v) for v in (*own.results, *own.parameters)]
        counts = len(own.results) == len(prototype.results)
        inlined = function.name in emitter.context.inlined
        if function.body is None or function.entry or inlined or kinds != wanted or not counts:
            continue
        its = emitter.value(f'ptrtoint ptr @"f.{function.name}" to i64')
        same = emitter.value(f"icmp eq i64 {address}, {its}")
        known = emitter.value(f"or i1 {known}, {same}")
    emitter.no_function(emitter.value(f"xor i1 {known}, true"))


def _call_text(emitter: Emitter, callee: str, result: str, typed: str) -> str:
    text = f"call {result} {callee}({typed})"
    if result == "void":
        emitter.emit(text)
        return ""
    return emitter.value(text)


def _call_address(emitter: Emitter, address: str, result: str, typed: str) -> str:
    pointer = emitter.value(f"inttoptr i64 {address} to ptr")
    return _call_text(emitter, pointer, result, typed)
