"""The NVIDIA driver's calls, through cuda-python's bindings and one error funnel.

- Nothing is imported, and CUDA isn't started, before the first ``start``.
- ``call`` is the one way to the driver: what fails raises a ``DeviceError`` with the call's name,
  the code's name and what to do.
- What the driver reads only once is in the environment before it starts; where another library has
  started it, that is left as it was then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from ringflow.device.cuda import environment
from ringflow.errors import DeviceError, DeviceLostError

NOT_INITIALIZED: Final = 3
NOT_READY: Final = 600
NEEDED_MAJOR: Final = 13
"""Of the driver: what cuda-python 13 and the cubins of NVRTC 13 need."""

_LOST: Final = "the context and every kernel in it are lost"
_ADVICE: Final[Mapping[int, str]] = {
    1: "this is a fault in ringflow, or memory was used that is not the device's; report it",
    2: "the GPU's memory is taken, perhaps by another process (look at nvidia-smi); give "
    "open_device a smaller memory_limit_bytes",
    3: "open the device before it is used",
    34: "the driver found is the toolkit's stub; put the real libcuda.so.1 first in the path",
    46: "another process has the GPU for itself; end it or change the compute mode",
    100: "CUDA sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES",
    101: "look at `ringflow devices` for those that there are",
    209: "the code is for another architecture; compile it for the device's target",
    218: "compile the code again",
    222: "the code is newer than the driver; update the driver",
    701: "the block needs more registers or shared memory than there are; make it smaller",
    720: "the grid has more blocks than the GPU can hold at once; make it smaller or use 'fill'",
    800: "the process may not do this; look at the permissions of /dev/nvidia*",
    802: "the GPU is starting; wait for nvidia-fabricmanager or nvidia-persistenced",
    803: "driver and libraries are of different versions; restart the machine after an update",
    804: "this GPU needs a driver of its own generation; update the driver",
}
LOST: Final = frozenset({4, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721})
"""Codes after which a context answers nothing else any more."""


def bindings() -> Any:
    """Return cuda-python's driver module; raises ``DeviceError`` if it can't be imported."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceError(
            f"cuda-python can't be imported ({error}); pip install cuda-python",
            call="import",
            code="not installed",
        ) from error
    return driver


def prepare() -> None:
    """Set what the driver reads when it starts, as far as the user has not, unless it has."""
    with contextlib.suppress(DeviceError):  # what is missing is told by the start
        if _called("cuDeviceGetCount", ())[0] == NOT_INITIALIZED:
            environment.prepare()


def start() -> tuple[int, int]:
    """Start CUDA in this process; return the CUDA version that its driver takes.

    Raises:
        DeviceError: there is no driver, no device, or the driver is too old; or the environment
            keeps kernels that never end from running.
    """
    prepare()
    reason, code = environment.refusal()
    if reason:
        raise DeviceError(f"GPUs can't be used: {reason}", call="open", code=code)
    try:
        call("cuInit", 0)
    except DeviceError as error:
        if error.code == "no driver":
            raise
        raise DeviceError(
            f"CUDA does not start: {error}", call="cuInit", code=error.code
        ) from error
    number: int = call("cuDriverGetVersion")
    version = number // 1000, number % 1000 // 10
    if version[0] < NEEDED_MAJOR:
        raise DeviceError(
            f"the NVIDIA driver takes CUDA {version[0]}.{version[1]}, {NEEDED_MAJOR}.0 is needed; "
            "update the driver",
            call="cuDriverGetVersion",
            code="old driver",
        )
    return version


def call(name: str, *arguments: Any) -> Any:
    """Call the driver and return its value: None, one, or a tuple of several.

    Raises:
        DeviceError: the call failed, or the driver or the function is not there.
    """
    result, values = _called(name, arguments)
    if result:
        raise error_of(name, result)
    if len(values) == 1:
        return values[0]
    return values or None


def give_back(name: str, *arguments: Any) -> None:
    """Make a call that gives something back; an error is of no use then."""
    with contextlib.suppress(DeviceError):
        call(name, *arguments)


def ask(name: str, *arguments: Any) -> bool:
    """Make a call that asks whether something has ended; return whether it has.

    Raises:
        DeviceError: as ``call``.
    """
    result, _ = _called(name, arguments)
    if result and result != NOT_READY:
        raise error_of(name, result)
    return not result


def error_of(name: str, result: int) -> DeviceError:
    """Return the error for a result of the driver other than 0."""
    code = code_name(result)
    advice = _LOST if result in LOST else _ADVICE.get(result, "look it up in the driver's manual")
    return DeviceError(f"{name} failed with {code} ({result}): {advice}", call=name, code=code)


def code_name(result: int) -> str:
    """Return a result's name, such as ``CUDA_ERROR_NO_DEVICE``."""
    try:
        return str(bindings().CUresult(result).name)
    except ValueError:  # newer than the bindings
        return f"CUDA_ERROR_{result}"


def is_lost(error: DeviceError) -> bool:
    """Return whether an error of ``call`` means that its context is lost."""
    return error.code in {code_name(result) for result in LOST}


def told_as_lost(error: DeviceError, device: str) -> DeviceError:
    """Return an error of ``call``, as ``DeviceLostError`` of a device if its context is lost."""
    is_new = is_lost(error) and not isinstance(error, DeviceLostError)
    return as_lost(error, device) if is_new else error


def as_lost(error: DeviceError, device: str) -> DeviceLostError:
    """Return an error of ``call`` as that of a device whose context is lost."""
    lost = DeviceLostError(device, str(error), call=error.call, code=error.code)
    lost.__cause__ = error
    return lost


def _called(name: str, arguments: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]]:
    driver = bindings()
    try:
        result, *values = getattr(driver, name)(*arguments)
    except (TypeError, ValueError, OverflowError):
        raise  # wrong arguments: ringflow's own mistake
    except Exception as error:  # each version of the bindings has its own type for what is missing
        if name == "cuInit":
            raise DeviceError(
                f"the NVIDIA driver was not found ({_first_line(error)}); install it, and make "
                "libcuda.so.1 visible where this runs in a container",
                call=name,
                code="no driver",
            ) from error
        raise DeviceError(
            f"the NVIDIA driver has no {name} ({_first_line(error)}); update the driver",
            call=name,
            code="old driver",
        ) from error
    return int(result), tuple(values)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
