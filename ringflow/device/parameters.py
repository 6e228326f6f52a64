"""A kernel's parameters, as its code has them and as its spec passes them."""

from __future__ import annotations

from ringflow.device.api import LoadedCode
from ringflow.errors import EntryPointError
from ringflow.spec import KernelSpec


def check_parameters(spec: KernelSpec, code: LoadedCode) -> None:
    """Compare the kernel's parameters with what the spec will pass.

    Raises:
        EntryPointError: no such kernel, or the sizes differ; the text names both lists.
    """
    name = spec.code.entry_point
    sizes = code.parameter_sizes.get(name)
    if sizes is None:
        raise EntryPointError(
            f"the code has no kernel {name!r}; it has {', '.join(code.parameter_sizes) or 'none'}",
            call="load",
            code="entry point",
        )
    passed = [("control", 8), *((region.name, 8) for region in spec.regions)]
    passed += [(argument.name, len(argument.value)) for argument in spec.arguments]
    if tuple(size for _, size in passed) != tuple(sizes):
        listed = ", ".join(f"{what} {size}" for what, size in passed)
        raise EntryPointError(
            f"kernel {name!r} takes parameters of {list(sizes)} bytes, the spec passes "
            f"[{listed}] bytes; parameters are control, then the regions, then the arguments",
            call="load",
            code="parameters",
        )
