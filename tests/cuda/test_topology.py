"""The path between two GPUs, from what a driver and an NVML made up for the test say of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ringflow.device.cuda import driver, topology
from ringflow.device.cuda.topology import Gpu, Link, link_between, links_among
from ringflow.errors import DeviceError

UUIDS = tuple(f"GPU-0000000{i}-1111-2222-3333-444444444444" for i in range(3))
GPUS = tuple(Gpu(device=i, uuid=uuid) for i, uuid in enumerate(UUIDS))


class FakeDriver:
    """A test double of the driver's answers about pairs."""

    def __init__(self) -> None:
        self.accessible = {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}
        self.atomics: set[tuple[int, int]] = set()
        self.no_attributes = False

    def call(self, name: str, *arguments: Any) -> int:
        if name == "cuDeviceCanAccessPeer":
            return int(arguments in self.accessible)
        assert name == "cuDeviceGetP2PAttribute"
        if self.no_attributes:
            raise DeviceError("no attributes", call=name, code="CUDA_ERROR_NOT_SUPPORTED")
        attribute, *pair = arguments
        assert attribute.name == "CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED"
        return int(tuple(pair) in self.atomics)


class FakeNvml:
    """A test double of nvidia-ml-py: its names, and GPUs in another order than CUDA's."""

    NVML_P2P_CAPS_INDEX_NVLINK = 2
    NVML_P2P_STATUS_OK = 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.uuids = [UUIDS[2], "GPU-hidden", UUIDS[0], UUIDS[1]]
        self.nvlinks: set[frozenset[int]] = set()
        self.ancestors: dict[frozenset[int], int] = {}
        self.starts = True
        self.opened = 0
        self.opened_times = 0

    def nvmlInit(self) -> None:
        if not self.starts:
            raise self.NVMLError("Driver Not Loaded")
        self.opened += 1
        self.opened_times += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        assert self.opened
        if uuid not in self.uuids:
            raise self.NVMLError("Not Found")
        return self.uuids.index(uuid)

    def nvmlDeviceGetP2PStatus(self, one: int, other: int, index: int) -> int:
        assert index == self.NVML_P2P_CAPS_INDEX_NVLINK
        return 0 if frozenset((one, other)) in self.nvlinks else 5

    def nvmlDeviceGetTopologyCommonAncestor(self, one: int, other: int) -> int:
        try:
            return self.ancestors[frozenset((one, other))]
        except KeyError:
            raise self.NVMLError("Not Supported") from None


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(driver, "call", fake.call)
    return fake


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.mark.usefixtures("cuda")
def test_nvml_tells_nvlink_from_pcie(nvml: FakeNvml) -> None:
    """By UUID: NVML's GPUs 2 and 3 are CUDA's 0 and 1, its 0 is CUDA's 2."""
    nvml.nvlinks = {frozenset((2, 3))}
    nvml.ancestors = {frozenset((2, 3)): 10, frozenset((2, 0)): 50}
    links = links_among(GPUS)
    assert len(links) == 6
    assert links[UUIDS[0], UUIDS[1]] == Link(path="nvlink", distance="below one PCIe switch")
    assert links[UUIDS[1], UUIDS[0]] == links[UUIDS[0], UUIDS[1]]
    assert links[UUIDS[0], UUIDS[2]] == Link(path="pcie peer", distance="across NUMA nodes")
    assert links[UUIDS[1], UUIDS[2]] == Link(path="pcie peer")
    assert (nvml.opened, nvml.opened_times) == (0, 1)


def test_pair_without_access_is_staged(cuda: FakeDriver, nvml: FakeNvml) -> None:
    """NVLink or not: what the driver doesn't allow goes through the host."""
    cuda.accessible = set()
    nvml.nvlinks = {frozenset((2, 3))}
    link = link_between(GPUS[0], GPUS[1])
    assert link == Link(path="staged")
    assert not link.is_direct


def test_access_one_way_is_enough(cuda: FakeDriver, nvml: FakeNvml) -> None:
    """A copy is made by the GPU that can reach the other."""
    cuda.accessible = {(1, 0)}
    assert link_between(GPUS[0], GPUS[1]).path == "pcie peer"
    assert link_between(GPUS[1], GPUS[0]).path == "pcie peer"
    assert nvml.opened == 0


def test_without_nvidia_ml_py_it_goes_on_and_says_so(
    cuda: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Native atomics are the driver's only sign of NVLink."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    cuda.atomics = {(0, 1), (1, 0)}
    link = link_between(GPUS[0], GPUS[1])
    assert link.path == "nvlink"
    assert "pip install" in link.unknown
    assert link_between(GPUS[0], GPUS[2]).path == "pcie peer"


def test_nvml_that_fails_is_gone_without(cuda: FakeDriver, nvml: FakeNvml) -> None:
    """It doesn't start, or knows neither GPU; nothing is raised, and the reason is told."""
    nvml.starts = False
    assert "Driver Not Loaded" in link_between(GPUS[0], GPUS[1]).unknown
    nvml.starts, nvml.uuids = True, []
    link = link_between(GPUS[0], GPUS[1])
    assert link.path == "pcie peer"
    assert "Not Found" in link.unknown
    assert nvml.opened == 0


@pytest.mark.usefixtures("cuda")
def test_instances_of_a_gpu_are_found_by_their_own_prefix(nvml: FakeNvml) -> None:
    """CUDA says only 16 bytes; nvidia-smi calls those of an instance ``MIG-``."""
    nvml.uuids = [uuid.replace("GPU-", "MIG-") for uuid in UUIDS]
    nvml.nvlinks = {frozenset((0, 1))}
    assert link_between(GPUS[0], GPUS[1]).path == "nvlink"


def test_driver_without_attributes_of_pairs(cuda: FakeDriver, nvml: FakeNvml) -> None:
    """The path is known all the same."""
    cuda.no_attributes = True
    nvml.nvlinks = {frozenset((2, 3))}
    assert link_between(GPUS[0], GPUS[1]) == Link(path="nvlink")


def test_real_nvidia_ml_py_has_what_is_asked_of_it() -> None:
    """The double above has the names of the package; here they are looked up in it."""
    import pynvml

    asked = [name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(asked) == 8
    assert all(hasattr(pynvml, name) for name in asked)
    for name in ("NVML_P2P_CAPS_INDEX_NVLINK", "NVML_P2P_STATUS_OK"):
        assert getattr(pynvml, name) == getattr(FakeNvml, name)
    levels = {getattr(pynvml, f"NVML_TOPOLOGY_{n}") for n in ["INTERNAL", "SINGLE", "MULTIPLE"]}
    assert levels | {30, 40, 50} == set(topology._DISTANCES)
