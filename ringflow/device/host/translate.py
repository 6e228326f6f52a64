"""The front door of the translator: PTX text in, native code out.

- Everything that the host device does not have is refused here, by name and line.
- With a cache, a text seen before costs neither the parse nor the compile.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import attrs
import cattrs
import orjson

from ringflow.device.compiler.cache import cache_folder
from ringflow.device.host.control_flow.inlining import (
    inline,
    inlined_functions,
    looping_functions,
    needs_guard,
    plain_functions,
)
from ringflow.device.host.control_flow.plan import plan_kernel
from ringflow.device.host.emit.core import ModuleContext
from ringflow.device.host.emit.function import FunctionEmitter
from ringflow.device.host.emit.guarded import GuardedFunctionEmitter
from ringflow.device.host.emit.kernel import KernelEmitter
from ringflow.device.host.emit.variables import variable_text
from ringflow.device.host.improve import improve
from ringflow.device.host.jit import NativeCode, ObjectCache, compile_ir
from ringflow.device.host.program import (
    EntryLayout,
    Facts,
    GlobalVariable,
    Program,
    VariableFacts,
)
from ringflow.device.host.ptx.ast import Module
from ringflow.device.host.ptx.parser import parse
from ringflow.device.host.ptx.positions import positions_of
from ringflow.device.host.ptx.state import ModuleState, state_of
from ringflow.device.symbols import readable_names

__all__ = [
    "EntryLayout",
    "GlobalVariable",
    "ObjectCache",
    "Program",
    "default_cache",
    "translate",
]

_HEADER = """
@"ringflow.zero" = global ptr null
!0 = !{}
!1 = distinct !{}
!2 = !{!"branch_weights", i32 1, i32 100000}
!3 = distinct !{!3, !5}
!4 = distinct !{!4, !7}
!5 = !{!"llvm.loop.parallel_accesses", !1}
!7 = !{!"llvm.loop.vectorize.enable", i1 false}
!8 = !{!"branch_weights", i32 100000, i32 1}
"""
_EMPTY: Mapping[str, int] = {}


@functools.cache
def default_cache() -> ObjectCache:
    """Return the cache of native code, in a folder that only this user writes."""
    return ObjectCache(cache_folder() / "objects")


def translate(
    ptx: str,
    *,
    cache: ObjectCache | None = None,
    externs: Mapping[str, int] = _EMPTY,
    preempt: bool = True,
    background: bool = False,
    memcheck: bool = False,
) -> Program:
    """Translate one PTX module to native code of this machine.

    Args:
        ptx: the text of one module, made by clang or by hand.
        cache: where translated code is kept; None keeps nothing.
        externs: addresses of functions that the text declares; integers and pointers only.
        preempt: loops that neither poll nor suspend give way when their fuel is used up.
        background: return as soon as simple code is ready, and replace it by the optimised one when
            a thread in the background has compiled that; ignored with mutable globals.
        memcheck: kernels check every access and collective; the launch says what they may touch.
    Raises:
        PtxSyntaxError: the text is not well formed.
        UnsupportedPtxError: it uses something that the host device does not have.
    """
    key = cache.key(ptx, ",".join(sorted(externs)), str(preempt), str(memcheck)) if cache else ""
    stored = cache.get(key) if cache else None
    if stored is not None:
        length = int.from_bytes(stored[:8], "little")
        facts = cattrs.structure(orjson.loads(stored[8 : 8 + length]), Facts)
        return Program(facts, NativeCode(stored[8 + length :]), externs, cached=True)
    module, names = parse(ptx), frozenset(externs)

    def optimised() -> tuple[Facts, bytes]:
        facts, text = emit_module(module, names, preempt, memcheck=memcheck)
        facts = attrs.evolve(facts, positions=positions_of(ptx))
        data = compile_ir(text, level=1 if facts.entries else 2)
        if cache is not None:
            head = orjson.dumps(cattrs.unstructure(facts))
            cache.put(key, len(head).to_bytes(8, "little") + head + data)
        return facts, data

    if memcheck or not background or not may_improve(module):
        facts, data = optimised()
        return Program(facts, NativeCode(data), externs, cached=False)
    facts, text = emit_module(module, names, preempt, vector=False)
    facts = attrs.evolve(facts, positions=positions_of(ptx))
    program = Program(facts, NativeCode(compile_ir(text, level=0)), externs, cached=False)
    improve(lambda: program.adopt(NativeCode(optimised()[1]), externs))
    return program


def may_improve(module: Module) -> bool:
    """Whether code may be replaced while it runs: it keeps nothing in memory of its own."""
    kernels = any(function.entry for function in module.functions.values())
    return kernels and not any(
        variable.space in ("global", "const") for variable in module.variables.values()
    )


def emit_module(
    module: Module,
    externs: frozenset[str],
    preempt: bool,
    *,
    vector: bool = True,
    memcheck: bool = False,
) -> tuple[Facts, str]:
    """Return the facts and the LLVM IR of a module, with or without the regions' vector forms."""
    refused = inlined_functions(module.functions)
    inlined = frozenset(refused)
    context = ModuleContext(
        module.variables,
        module.functions,
        externs,
        inlined,
        memcheck=memcheck,
        guarded=(preempt or memcheck) and needs_guard(module.functions),
    )
    chosen = inlined
    if preempt:
        chosen |= looping_functions(module.functions)
    if memcheck:
        chosen |= plain_functions(module.functions)
    texts: list[str] = []
    entries: dict[str, EntryLayout] = {}
    functions: list[str] = []
    for function in module.functions.values():
        if function.body is None or function.name in refused:
            continue
        if function.entry:
            whole = inline(function, module.functions, chosen)
            emitter = KernelEmitter(context, plan_kernel(whole, preempt=preempt, memcheck=memcheck))
            texts.append(emitter.text(vector=vector))
            entries[function.name] = emitter.layout()
        else:
            kind = GuardedFunctionEmitter if context.guarded else FunctionEmitter
            texts.append(kind(context, function).text())
            functions.append(function.name)
    state = state_of(module)
    carried = frozenset(state.written) - state.addresses.keys()
    variables = {
        name: VariableFacts(
            variable.size_bytes, variable.space == "global", name in carried, variable.type
        )
        for name, variable in module.variables.items()
        if variable.space != "shared" and not variable.external
    }
    texts += [variable_text(module.variables[name], module, inlined) for name in variables]
    texts += [f'@"x.{name}" = global ptr null' for name in sorted(context.externs)]
    facts = Facts(
        entries,
        variables,
        tuple(functions),
        refused,
        tuple(sorted(context.externs)),
        memcheck=memcheck,
        unlisted=_unlisted(state),
    )
    return facts, "\n".join([_HEADER, *texts, *context.declarations.values()])


def _unlisted(state: ModuleState) -> str:
    """Return which variables cannot be carried elsewhere, and why; empty where all can."""
    named = readable_names(state.written)
    return "; ".join(
        f"variable {named[name]!r} holds the address of "
        f"{', '.join(readable_names(targets).values())}, which is another one elsewhere"
        for name, targets in state.addresses.items()
    )
