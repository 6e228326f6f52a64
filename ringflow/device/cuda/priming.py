"""What the driver does for the first kernel of its kind, done when a device is opened.

- The buffer of ``printf`` is made at the first launch of a kernel that may print, and that launch
  waits for all kernels of the context. So one that may print, and doesn't, runs before any other.
"""

from __future__ import annotations

import functools
from typing import Final

from ringflow.device.api import LaunchStatus
from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.compiler.cache import CompileCache
from ringflow.device.cuda.code import load_module
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.launches import Launches
from ringflow.errors import DeviceError

DEADLINE_S: Final = 10.0
ENTRY_POINT: Final = "ringflow_prime"
SOURCE: Final = """
extern "C" __global__ void ringflow_prime(unsigned prints) {
    if (prints) printf("%u", prints);
}
"""


def prime(context: CudaContext, launches: Launches) -> None:
    """Run the kernel; ``current`` is needed, and nothing may run. Without a compiler: nothing.

    Raises:
        DeviceError: it has not ended in time; something else holds the GPU. Its code stays until
            it has: unloading would wait for it.
    """
    target = CompileTarget(context.attributes.architecture)
    try:
        compiled = compile_source(
            SOURCE, entry_point=ENTRY_POINT, target=target, cache=CompileCache.default()
        )
    except DeviceError as error:
        if error.code == "compile failed":  # of ringflow's own source: a fault that must be seen
            raise
        return
    unload = functools.partial(launches.grids.unload, context)
    code = load_module(context, compiled, unload=unload)
    try:
        launch = launches.launch(
            code,
            code.kernel(ENTRY_POINT),
            grid=(1, 1, 1),
            block=(1, 1, 1),
            parameters=(bytes(4),),
            shared_bytes=0,
            claims=frozenset(),
        )
        if launch.wait(DEADLINE_S) is not LaunchStatus.COMPLETED:
            context.check()
            raise DeviceError(
                f"a kernel of one thread has not ended on {context.name!r} within "
                f"{DEADLINE_S:g} s; look at nvidia-smi for what holds the GPU",
                call="open",
                code="timeout",
            )
    finally:
        unload(code.module)
