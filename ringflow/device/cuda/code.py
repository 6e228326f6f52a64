"""Code on a GPU: a cubin, loaded as a module, each of its kernels ready before it is launched.

- Loading is eager: every kernel is put on the device here, none at its first launch, which would
  wait for the kernels that run.
- A module is of one context. A library (``cuLibraryLoadData``), loaded eagerly, goes into all
  contexts of the process at once, and waits for the kernels of each.
- An SM's split into L1 cache and shared memory can't change while a block lives there, and a block
  that was launched for another split never starts beside it. So all kernels ask for the same.
- Unloading waits for all that runs in the context, so it is put off until nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import attrs

from ringflow.device.api import DeviceGlobal
from ringflow.device.compiler.api import CompiledCode
from ringflow.device.compiler.entries import cubin_kernels
from ringflow.device.compiler.state import CodeVariable, split_state
from ringflow.device.cuda import driver
from ringflow.device.cuda.context import CudaContext
from ringflow.errors import DeviceError, EntryPointError

SHARED_PERCENT: Final = 100
"""Of an SM's memory that may be shared memory, in every kernel: the most, which fits all blocks."""
_INVALID_VALUE: Final = "CUDA_ERROR_INVALID_VALUE"


@final
@attrs.frozen(eq=False)
class CudaKernel:
    """One kernel of loaded code.

    Attributes:
        function: the driver's handle.
        parameter_sizes: in bytes, in order.
        local_bytes: local memory of a thread.
        dynamic_shared_bytes: what a block may ask for beside its own shared memory.
    """

    name: str
    function: Any
    parameter_sizes: tuple[int, ...]
    local_bytes: int
    dynamic_shared_bytes: int

    def occupancy(self, context: CudaContext, threads: int, shared_bytes: int) -> int:
        """Return how many blocks of this shape fit on an empty SM; ``current`` is needed.

        Raises:
            DeviceError: the block asks for more shared memory or threads than there are.
        """
        for what, wanted, limit in (
            ("bytes of dynamic shared memory", shared_bytes, self.dynamic_shared_bytes),
            ("threads", threads, context.attributes.max_threads),
        ):
            if wanted > limit:
                raise DeviceError(
                    f"a block of {self.name!r} asks for {wanted} {what}, {context.name!r} has "
                    f"{limit}; make the block smaller",
                    call="launch",
                    code="block",
                )
        count: int = context.call(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor", self.function, threads, shared_bytes
        )
        return count


@final
class CudaCode:
    """A loaded module and its kernels."""

    def __init__(
        self,
        module: Any,
        kernels: Mapping[str, CudaKernel],
        variables: tuple[DeviceGlobal, ...],
        unlisted: str,
    ) -> None:
        self.module = module
        self.kernels = kernels
        self._variables = variables
        self._unlisted = unlisted

    @property
    def parameter_sizes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: kernel.parameter_sizes for name, kernel in self.kernels.items()}

    @property
    def globals(self) -> tuple[DeviceGlobal, ...]:
        return self._variables

    @property
    def unlisted(self) -> str:
        return self._unlisted

    def kernel(self, entry_point: str) -> CudaKernel:
        """Return a kernel by its name; raises ``EntryPointError``."""
        found = self.kernels.get(entry_point)
        if found is None:
            known = ", ".join(self.kernels) or "none"
            raise EntryPointError(
                f"no kernel {entry_point!r}; there are: {known}",
                call="launch",
                code="entry point",
            )
        return found


def load_module(
    context: CudaContext, code: CompiledCode, *, unload: Callable[[Any], None]
) -> CudaCode:
    """Load a cubin and all of its kernels; ``current`` is needed.

    Args:
        unload: gives a module up that was half loaded.
    Raises:
        DeviceError: the driver refuses the code; nothing stays loaded.
    """
    cubin, state = split_state(code.code)
    module = context.call("cuModuleLoadData", cubin)
    try:
        kernels = {name: _loaded_kernel(context, module, name) for name in cubin_kernels(cubin)}
        variables = tuple(_variable(context, module, one) for one in state.variables)
    except BaseException:
        unload(module)
        raise
    return CudaCode(module, kernels, variables, state.unlisted)


def _variable(context: CudaContext, module: Any, variable: CodeVariable) -> DeviceGlobal:
    address, size_bytes = context.call("cuModuleGetGlobal", module, variable.symbol.encode())
    assert size_bytes == variable.size_bytes, f"{variable.name} has {size_bytes} bytes"
    return DeviceGlobal(variable.name, size_bytes, int(address), variable.dtype)


def _loaded_kernel(context: CudaContext, module: Any, name: str) -> CudaKernel:
    function = context.call("cuModuleGetFunction", module, name.encode())
    context.call("cuFuncLoad", function)
    names = driver.bindings().CUfunction_attribute
    local_bytes, shared_bytes = (
        context.call("cuFuncGetAttribute", attribute, function)
        for attribute in (
            names.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
            names.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
        )
    )
    dynamic_bytes = context.attributes.max_shared_bytes - shared_bytes
    for attribute, value in (
        (names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic_bytes),
        (names.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, SHARED_PERCENT),
    ):
        context.call("cuFuncSetAttribute", function, attribute, value)
    sizes = _parameter_sizes(context, function)
    return CudaKernel(name, function, sizes, local_bytes, dynamic_bytes)


def _parameter_sizes(context: CudaContext, function: Any) -> tuple[int, ...]:
    sizes: list[int] = []
    while True:
        try:
            _, size_bytes = context.call("cuFuncGetParamInfo", function, len(sizes))
        except DeviceError as error:
            if error.code == _INVALID_VALUE:  # there is none of this number
                return tuple(sizes)
            raise
        sizes.append(size_bytes)
