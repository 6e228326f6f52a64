"""What the driver does for the first kernel of its kind, done when a device is opened.

- The first launch of a kernel that may print makes the buffer for it; the first cooperative one,
  and the first with so much local memory, make what they need. Such a launch waits for all kernels
  of the context. So a kernel that is all of these, and does nothing, runs before any other.
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
extern "C" __global__ void ringflow_prime(unsigned count) {
    volatile unsigned char own[LOCAL_BYTES];
    for (unsigned i = 0; i < count; ++i) own[i % LOCAL_BYTES] = i;
    if (count) printf("never\\n");  // arguments would take local memory too
}
"""


def prime(context: CudaContext, launches: Launches) -> None:
    """Run the kernel; ``current`` is needed, and nothing may run. Without a compiler: nothing.

    Raises:
        DeviceError: it has not ended in time; something else holds the GPU. Its code stays until
            it has: unloading would wait for it.
    """
    target = CompileTarget(context.attributes.architecture)
    source = f"#define LOCAL_BYTES {context.local_memory_bytes}{SOURCE}"
    try:
        compiled = compile_source(
            source, entry_point=ENTRY_POINT, target=target, cache=CompileCache.default()
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
            grid=(2, 1, 1),  # which is launched cooperatively
            block=(1, 1, 1),
            parameters=(bytes(4),),
            shared_bytes=0,
            claims=frozenset(),
        )
        if launch.wait(DEADLINE_S) is not LaunchStatus.COMPLETED:
            context.check()
            raise DeviceError(
                f"a kernel of two threads has not ended on {context.name!r} within "
                f"{DEADLINE_S:g} s; look at nvidia-smi for what holds the GPU",
                call="open",
                code="timeout",
            )
    finally:
        unload(code.module)
