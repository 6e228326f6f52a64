"""What translated kernels call: the stepping of a CTA, written in CUDA C++, and clocks.

``cta.cu`` ships as ``cta.ptx``, made by clang, and is translated like any other module; a test
rebuilds and compares it.
"""

from __future__ import annotations

import functools
import importlib.resources

from ringflow.device.host.runtime.clock import clock_address

STEP = "ringflow_cta_step"
INITIALISE = "ringflow_cta_initialise"


@functools.cache
def _functions() -> dict[str, int]:
    # The translator imports this module: it hands out the addresses that its programs need.
    from ringflow.device.host.translate import default_cache, translate

    text = importlib.resources.files(__package__).joinpath("cta.ptx").read_text("utf-8")
    program = translate(text, cache=default_cache())
    _keep.append(program)
    return {name: program.function(name) for name in (STEP, INITIALISE)}


_keep: list[object] = []


def runtime_address(name: str) -> int:
    """Return the address of a runtime function, 0 if there is none of this name."""
    if name in (STEP, INITIALISE):
        return _functions()[name]
    return clock_address(name)
