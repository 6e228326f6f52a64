"""What the driver reads once, when it starts: set in time, else not believed; refused if unfit."""

from __future__ import annotations

import os

import pytest

from ringflow.cli.checks import gpus as gpu_checks
from ringflow.device.cuda import driver, environment
from ringflow.device.cuda.loading import try_loading
from ringflow.errors import DeviceError
from tests.cuda.kernels import answer, end, launched, opened
from tests.cuda.standin import Standin, plug

QUEUES, LOADING = "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MODULE_LOADING"
UNFIT = [
    *((QUEUES, count, "queues") for count in "1234"),
    ("CUDA_LAUNCH_BLOCKING", "1", "launch blocking"),
]


@pytest.mark.usefixtures("gpus", "plain_environment")
def test_it_is_set_before_the_driver_starts_and_only_if_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hazards 1 and 10: eager loading, and as many hardware queues as there can be."""
    monkeypatch.setenv(LOADING, "LAZY")
    assert environment.queue_count() == 8
    driver.start()
    assert (os.environ[QUEUES], os.environ[LOADING]) == ("32", "LAZY")
    assert environment.queue_count() == 32
    monkeypatch.setenv(QUEUES, "12")
    driver.start()
    assert environment.queue_count() == 12


@pytest.mark.usefixtures("plain_environment")
def test_where_cuda_was_started_before_there_are_only_the_queues_of_then(gpus: Standin) -> None:
    """Believed in 32 of 8, grids shared queues with copies, and everything waited for them."""
    driver.call("cuInit", 0)
    device = opened()
    assert QUEUES not in os.environ
    assert LOADING not in os.environ
    kernels = [launched(device, "echo") for _ in range(4)]
    with pytest.raises(DeviceError, match=QUEUES) as raised:
        launched(device, "echo")
    assert raised.value.code == "queues"
    word = device.allocate(4096, label="word")
    device.copy_in(word, bytes(4096))
    device.copy_out(word)
    assert all(answer(kernel) == b"abcd" for kernel in kernels)
    end(*kernels)
    device.free(word)
    device.close()


@pytest.mark.parametrize(("name", "value", "code"), UNFIT)
def test_settings_with_which_all_would_wait_for_kernels_are_refused(
    gpus: Standin, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
) -> None:
    """Also in the trial of loading, which would answer for another setting; doctor tells."""
    monkeypatch.setenv(name, value)
    for attempt in (opened, lambda: try_loading(0)):
        with pytest.raises(DeviceError, match=f"{name}={value} .* before the process") as raised:
            attempt()
        assert (raised.value.call, raised.value.code) == ("open", code)
    assert gpus.calls("cuDevicePrimaryCtxRetain") == []
    told = {check.name: check for check in gpu_checks()}["cuda:0"]
    assert not told.is_ok
    assert f"{name}={value}" in told.detail


@pytest.mark.parametrize(("name", "value"), [(QUEUES, "5"), ("CUDA_LAUNCH_BLOCKING", "0")])
def test_what_just_suffices_opens(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """One kernel works beside copies."""
    monkeypatch.setenv(name, value)
    with plug(1):
        device = opened()
        kernel = launched(device, "echo")
        word = device.allocate(4, label="word")
        device.copy_in(word, b"abcd")
        assert bytes(device.copy_out(word)) == answer(kernel)
        end(kernel)
        device.free(word)
        device.close()
