"""What translated kernels call: a CTA's stepping, memcheck and printing, in CUDA C++, and clocks.

``cta.cu`` ships as ``cta.ptx``, made by clang, and is translated like any other module, and so is
``memcheck.cu`` and ``log.cu``; a test rebuilds and compares them.
"""

from __future__ import annotations

import functools
import importlib.resources

from ringflow.device.host.runtime.clock import clock_address

STEP = "ringflow_cta_step"
INITIALISE = "ringflow_cta_initialise"
CHECK = "ringflow_memcheck"
MISUSE = "ringflow_misuse"
PRINT = "ringflow_print"
_FILES = {
    STEP: "cta.ptx",
    INITIALISE: "cta.ptx",
    CHECK: "memcheck.ptx",
    MISUSE: "memcheck.ptx",
    PRINT: "log.ptx",
}
_keep: list[object] = []


@functools.cache
def _functions(file: str) -> dict[str, int]:
    # The translator imports this module: it hands out the addresses that its programs need.
    from ringflow.device.host.translate import default_cache, translate

    text = importlib.resources.files(__package__).joinpath(file).read_text("utf-8")
    program = translate(text, cache=default_cache())
    _keep.append(program)
    return {name: program.function(name) for name, where in _FILES.items() if where == file}


def runtime_address(name: str) -> int:
    """Return the address of a runtime function, 0 if there is none of this name."""
    if name in _FILES:
        return _functions(_FILES[name])[name]
    return clock_address(name)
