"""The front door of the translator: PTX text in, native code out.

- Everything that the host device does not have is refused here, by name and line.
- With a cache, a text seen before costs neither the parse nor the compile.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import cattrs
import orjson

from ringflow.device.host.control_flow.inlining import (
    inline,
    inlined_functions,
    looping_functions,
)
from ringflow.device.host.control_flow.plan import plan_kernel
from ringflow.device.host.emit.core import ModuleContext
from ringflow.device.host.emit.function import FunctionEmitter
from ringflow.device.host.emit.kernel import KernelEmitter
from ringflow.device.host.emit.variables import variable_text
from ringflow.device.host.jit import NativeCode, ObjectCache, compile_ir
from ringflow.device.host.program import EntryLayout, Facts, GlobalVariable, Program
from ringflow.device.host.ptx.ast import Module
from ringflow.device.host.ptx.parser import parse

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
"""
_EMPTY: Mapping[str, int] = {}


@functools.cache
def default_cache() -> ObjectCache:
    """Return the cache in ``RINGFLOW_CACHE_DIR``, else in the user's cache folder."""
    given = os.environ.get("RINGFLOW_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or (
        str(Path(os.environ["HOME"]) / ".cache") if os.environ.get("HOME") else ""
    )
    folder = Path(given) if given else Path(home or tempfile.gettempdir()) / "ringflow"
    return ObjectCache(folder / "objects")


def translate(
    ptx: str,
    *,
    cache: ObjectCache | None = None,
    externs: Mapping[str, int] = _EMPTY,
    preempt: bool = True,
) -> Program:
    """Translate one PTX module to native code of this machine.

    Args:
        ptx: the text of one module, made by clang or by hand.
        cache: where translated code is kept; None keeps nothing.
        externs: addresses of functions that the text declares; integers and pointers only.
        preempt: loops that neither poll nor suspend give way when their fuel is used up.
    Raises:
        PtxSyntaxError: the text is not well formed.
        UnsupportedPtxError: it uses something that the host device does not have.
    """
    if cache is None:
        facts, data = _compile(ptx, frozenset(externs), preempt)
        return Program(facts, NativeCode(data), externs, cached=False)
    key = cache.key(ptx, ",".join(sorted(externs)), str(preempt))
    stored = cache.get(key)
    if stored is not None:
        length = int.from_bytes(stored[:8], "little")
        facts = cattrs.structure(orjson.loads(stored[8 : 8 + length]), Facts)
        return Program(facts, NativeCode(stored[8 + length :]), externs, cached=True)
    facts, data = _compile(ptx, frozenset(externs), preempt)
    text = orjson.dumps(cattrs.unstructure(facts))
    cache.put(key, len(text).to_bytes(8, "little") + text + data)
    return Program(facts, NativeCode(data), externs, cached=False)


def _compile(ptx: str, externs: frozenset[str], preempt: bool) -> tuple[Facts, bytes]:
    facts, text = emit_module(parse(ptx), externs, preempt)
    return facts, compile_ir(text, level=1 if facts.entries else 2)


def emit_module(module: Module, externs: frozenset[str], preempt: bool) -> tuple[Facts, str]:
    """Return the facts and the LLVM IR of a module."""
    refused = inlined_functions(module.functions)
    inlined = frozenset(refused)
    context = ModuleContext(module.variables, module.functions, externs, inlined)
    chosen = inlined
    if preempt:
        chosen |= looping_functions(module.functions)
    texts: list[str] = []
    entries: dict[str, EntryLayout] = {}
    functions: list[str] = []
    for function in module.functions.values():
        if function.body is None or function.name in refused:
            continue
        if function.entry:
            whole = inline(function, module.functions, chosen)
            emitter = KernelEmitter(context, plan_kernel(whole, preempt=preempt))
            texts.append(emitter.text())
            entries[function.name] = emitter.layout()
        else:
            texts.append(FunctionEmitter(context, function).text())
            functions.append(function.name)
    variables = {
        name: (variable.size_bytes, variable.space == "global")
        for name, variable in module.variables.items()
        if variable.space != "shared" and not variable.external
    }
    texts += [variable_text(module.variables[name], module, inlined) for name in variables]
    texts += [f'@"x.{name}" = global ptr null' for name in sorted(context.externs)]
    facts = Facts(entries, variables, tuple(functions), refused, tuple(sorted(context.externs)))
    return facts, "\n".join([_HEADER, *texts, *context.declarations.values()])
