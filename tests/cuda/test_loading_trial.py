"""The trial of loading code beside a running kernel, on the stand-in driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringflow.device.compiler.entries import cubin_variables
from ringflow.device.compiler.nvrtc import compile_to_cubin
from ringflow.device.cuda import loading
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.device import CudaDevice
from ringflow.device.cuda.loading import Loading, loads_while_running, try_loading
from ringflow.device.registry import open_device
from ringflow.errors import DeviceError
from tests.cuda.standin import LOADING, Fault, Standin
from tests.device.kernels import compiled, resident

SPIN_S = 0.3
FREE = {"loads_while_running": True}
DEADLINE_S = 30.0
NOBODY = ("/nonexistent",)


@pytest.mark.parametrize("gpus", [FREE], indirect=True)
def test_driver_that_loads_beside_a_kernel(gpus: Standin) -> None:
    """The load returns while the kernel spins; nothing of the trial stays."""
    assert try_loading(1, spin_s=DEADLINE_S)
    assert [call.live for call in gpus.calls("cuModuleLoadData")] == [0, 1]


def test_driver_whose_load_waits_for_the_kernel(gpus: Standin) -> None:
    """The kernel's own end is the end of the wait, so the trial needs no killing here."""
    gpus.allow(*LOADING)
    assert not try_loading(0, spin_s=SPIN_S)


@pytest.mark.parametrize("gpus", [FREE], indirect=True)
def test_kernel_is_told_to_end_where_the_load_fails(gpus: Standin) -> None:
    """A trial that fails is an error, and leaves no kernel spinning."""
    gpus.arm(Fault("cuModuleLoadData", 2, 209))
    with pytest.raises(DeviceError, match="cuModuleLoadData"):
        try_loading(0, spin_s=DEADLINE_S)
    assert gpus.live(0) == 0


@pytest.mark.parametrize("gpus", [{**FREE, "asks_child": True}], indirect=True)
def test_child_process_gives_the_answer(
    gpus: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a device asks one child, and no context is made for it here; the next asks none."""
    assert loads_while_running(0, folder=tmp_path) == Loading(True, "a trial did so")
    assert gpus.calls("cuDevicePrimaryCtxRetain") == []
    (kept,) = tmp_path.iterdir()
    assert '"works": true' in kept.read_text()
    assert loads_while_running(0, folder=tmp_path, child=NOBODY).works
    monkeypatch.setattr(loading, "_RULES", "those of a harder trial")
    assert "not be started" in loads_while_running(0, folder=tmp_path, child=NOBODY).reason


@pytest.mark.parametrize("gpus", [{**FREE, "sm_count": 3}], indirect=True)
def test_the_trial_is_as_hard_as_can_be(gpus: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block fits beside the kernel, and the code has what a driver may wait for."""
    grids: list[int] = []
    call = CudaContext.call

    def noted(self: CudaContext, name: str, *arguments: Any) -> Any:
        if name == "cuLaunchKernel":
            grids.append(arguments[1])
        return call(self, name, *arguments)

    monkeypatch.setattr(CudaContext, "call", noted)
    assert try_loading(0, spin_s=DEADLINE_S)
    assert grids == [3 * 32]
    cubin, _ = compile_to_cubin(loading.LOADED, architecture="sm_90")
    assert {"zeroed": 2 << 20, "initialised": 2 << 20}.items() <= cubin_variables(cubin).items()


@pytest.mark.parametrize(("gpus", "loads"), [(FREE, True), ({}, False)], indirect=["gpus"])
def test_device_goes_by_the_answer(gpus: Standin, loads: bool) -> None:
    """Beside a running kernel code is loaded at once, or once the kernel has made way."""
    device = open_device("cuda:0", memory_limit_bytes=8 << 20)
    assert isinstance(device, CudaDevice)
    assert device.loads_while_running is loads
    kernel = resident(device, "echo")
    kernel.launch(gate_open=True, timeout_s=DEADLINE_S)
    before = len(gpus.calls("cuModuleLoadData"))
    code = device.load(compiled("silent", device.target))
    assert [call.live for call in gpus.calls("cuModuleLoadData")[before:]] == [int(loads)]
    kernel.close()
    device.unload(code)
    device.close()
