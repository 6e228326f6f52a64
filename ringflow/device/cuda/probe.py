"""Is there an NVIDIA driver, and which GPUs does it see: asked without ever failing."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class CudaFacts:
    """What the driver says.

    Attributes:
        driver: the CUDA version that it takes, such as ``"13.0"``; "" without a driver.
        gpus: the names of the GPUs in the driver's order.
        missing: why there is no GPU to use, in a sentence without its full stop; "" if there is.
    """

    driver: str = ""
    gpus: tuple[str, ...] = ()
    missing: str = ""


def probe() -> CudaFacts:
    """Ask the driver; it starts CUDA in this process, and makes no context on any GPU."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        return CudaFacts(missing=f"cuda-python can't be imported ({error})")
    try:
        (started,) = driver.cuInit(0)
    except (
        Exception
    ) as error:  # each version of the bindings has its own type for a missing library
        return CudaFacts(missing=f"the NVIDIA driver was not found ({_first_line(error)})")
    if started != driver.CUresult.CUDA_SUCCESS:
        return CudaFacts(missing=f"the NVIDIA driver refuses to start: {started.name}")
    try:
        return _asked(driver)
    except Exception as error:  # a program that only asks goes on
        return CudaFacts(missing=f"the NVIDIA driver does not answer ({_first_line(error)})")


def _asked(driver: Any) -> CudaFacts:
    number = _result(driver, driver.cuDriverGetVersion())
    version = f"{number // 1000}.{number % 1000 // 10}"
    gpus = []
    for index in range(_result(driver, driver.cuDeviceGetCount())):
        device = _result(driver, driver.cuDeviceGet(index))
        name = _result(driver, driver.cuDeviceGetName(128, device))
        gpus.append(name.rstrip(b"\0").decode(errors="replace"))
    missing = "" if gpus else "the NVIDIA driver sees no GPU"
    return CudaFacts(driver=version, gpus=tuple(gpus), missing=missing)


def _result(driver: Any, returned: tuple[Any, ...]) -> Any:
    result, value = returned
    if result != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(result.name)
    return value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
