"""How two GPUs are connected: what the CUDA driver says of a pair, and NVML where it is there.

- The driver says whether one GPU can read and write the other's memory; NVML says over what.
- CUDA's ordinals are not NVML's: ``CUDA_VISIBLE_DEVICES`` hides and reorders, so UUIDs tie them.
- NVML is a package and a library of its own; without it a pair is told by the driver alone, and
  ``Link.unknown`` says what that leaves open.
- This is what a copy can use; whether it does is for the contexts' peer access, see ``peers``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ringflow.device.cuda import driver
from ringflow.errors import DeviceError

NVLINK: Final = "nvlink"
PCIE_PEER: Final = "pcie peer"
STAGED: Final = "staged"
WITHIN: Final = "device"
HOST_PATH: Final = "host"
"""These two are not between GPUs: one GPU alone, and one end in the host's memory."""

# NVML's nearest common ancestor of two GPUs, by nvmlGpuTopologyLevel_t.
_DISTANCES: Final[Mapping[int, str]] = {
    0: "on one board",
    10: "below one PCIe switch",
    20: "below several PCIe switches",
    30: "below one PCIe host bridge",
    40: "on one NUMA node",
    50: "across NUMA nodes",
}


@attrs.frozen(kw_only=True)
class Gpu:
    """A GPU as the two libraries know it.

    Attributes:
        device: the CUDA driver's handle (``CUdevice``).
        uuid: with its prefix, as nvidia-smi writes it.
    """

    device: Any
    uuid: str


@attrs.frozen(kw_only=True)
class Link:
    """What there is between two GPUs.

    Attributes:
        path: the best way for a copy: ``"nvlink"``, ``"pcie peer"`` (the GPUs' own DMA over
            PCIe), or ``"staged"`` (by way of the host's memory).
        distance: where the two meet in the machine, as NVML sees it; "" if it wasn't asked.
        unknown: what could not be learnt and why, in a sentence; "" if all is known.
    """

    path: str
    distance: str = ""
    unknown: str = ""

    @property
    def is_direct(self) -> bool:
        """Whether one GPU can access the other's memory."""
        return self.path != STAGED


@attrs.frozen(kw_only=True)
class _Seen:
    """What NVML says of a pair; ``nvlink`` is None where it says nothing."""

    nvlink: bool | None = None
    distance: str = ""
    unknown: str = ""


def link_between(source: Gpu, target: Gpu) -> Link:
    """Return how two GPUs are connected; raises ``DeviceError`` if the driver doesn't answer."""
    return links_among((source, target))[source.uuid, target.uuid]


def links_among(gpus: Sequence[Gpu]) -> dict[tuple[str, str], Link]:
    """Return the links of all ordered pairs of different GPUs, by their UUIDs.

    NVML is opened once for all of them. It takes milliseconds: call it in a worker thread.

    Raises:
        DeviceError: the CUDA driver doesn't answer; what NVML does never raises.
    """
    with _nvml() as (nvml, missing):
        return {
            (source.uuid, target.uuid): _link(source, target, nvml, missing)
            for source in gpus
            for target in gpus
            if source.uuid != target.uuid
        }


def _link(source: Gpu, target: Gpu, nvml: Any, missing: str) -> Link:
    seen = _seen_by_nvml(nvml, source, target) if nvml is not None else _Seen(unknown=missing)
    accesses = [
        (one, other)
        for one, other in ((source, target), (target, source))
        if driver.call("cuDeviceCanAccessPeer", one.device, other.device)
    ]
    if not accesses:
        return Link(path=STAGED, distance=seen.distance, unknown=seen.unknown)
    is_nvlink = _has_atomics(*accesses[0]) if seen.nvlink is None else seen.nvlink
    return Link(
        path=NVLINK if is_nvlink else PCIE_PEER,
        distance=seen.distance,
        unknown=seen.unknown,
    )


def _has_atomics(source: Gpu, target: Gpu) -> bool:
    """Return whether there are native atomics: without NVML the only sign of NVLink."""
    attributes = driver.bindings().CUdevice_P2PAttribute
    attribute = attributes.CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED
    try:
        return bool(driver.call("cuDeviceGetP2PAttribute", attribute, source.device, target.device))
    except DeviceError:
        return False


# NVML


@contextlib.contextmanager
def _nvml() -> Iterator[tuple[Any, str]]:
    """Give the opened NVML, or None and why there is none."""
    try:
        import pynvml
    except ImportError:
        yield None, _unknown("nvidia-ml-py is not installed: pip install 'ringflow[cuda13]'")
        return
    try:
        pynvml.nvmlInit()
    except Exception as error:  # it has a type for each code, and others when its library is old
        yield None, _unknown(f"NVML does not start: {error}")
        return
    try:
        yield pynvml, ""
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def _seen_by_nvml(nvml: Any, source: Gpu, target: Gpu) -> _Seen:
    try:
        pair = [_nvml_handle(nvml, gpu.uuid) for gpu in (source, target)]
        status = nvml.nvmlDeviceGetP2PStatus(*pair, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    except Exception as error:
        return _Seen(unknown=_unknown(f"NVML does not tell of this pair: {error}"))
    try:
        distance = _DISTANCES.get(nvml.nvmlDeviceGetTopologyCommonAncestor(*pair), "")
    except Exception:  # not in every virtual machine; the path is known without it
        distance = ""
    return _Seen(nvlink=status == nvml.NVML_P2P_STATUS_OK, distance=distance)


def _nvml_handle(nvml: Any, uuid: str) -> Any:
    """Return NVML's handle for a UUID of CUDA's, which calls an instance of a GPU a GPU too."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception:
        if not uuid.startswith("GPU-"):
            raise
        return nvml.nvmlDeviceGetHandleByUUID("MIG-" + uuid.removeprefix("GPU-"))


def _unknown(reason: str) -> str:
    return f"whether NVLink connects them is not known for certain ({reason})"
