"""``ringflow devices`` and ``doctor`` with the stand-in's GPUs, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from ringflow.cli.checks import gpus as checks
from ringflow.device.cuda import driver
from ringflow.device.cuda.context import ordinal_of
from ringflow.device.cuda.probe import ask, probe
from tests.cli.program import program
from tests.cuda.standin import Fault, Standin, plug


def test_devices_and_doctor_tell_of_each_gpu(
    gpus: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a child process."""
    code, out, _ = program(capsys, "devices")
    assert code == 0
    said = out.splitlines()
    first = f"GPU-{ask().gpus[0].uuid.removeprefix('GPU-')}"
    assert said[1] == (
        f"cuda:0  Stand-in GPU (a test double), 256.0MiB of memory, sm_90, 4 SMs, {first}"
    )
    assert said[3].startswith("cuda:0 - cuda:1  nvlink; ")
    assert said[4].startswith("cuda    driver for CUDA 13.5, NVRTC 13.")
    assert len(said) == 5
    code, out, _ = program(capsys, "doctor", "--json")
    found = {one["name"]: one for one in map(orjson.loads, out.splitlines())}
    names = ("driver", "cuda:0", "cuda:1", "cuda:0-cuda:1", "work queues")
    assert all(found[name]["is_ok"] for name in names)
    driver.start()
    assert ordinal_of(f"cuda:{first}") == 0  # what is printed is what ``open_device`` takes


@pytest.mark.usefixtures("gpus", "plain_environment")
def test_doctor_tells_how_many_kernels_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer where another library starts CUDA first, which no process of its own can see."""
    told = {check.name: check.detail for check in checks()}["work queues"]
    assert told.startswith("28 kernels at a time on a GPU, 4 in programs that start CUDA before")
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "12")
    assert {check.name: check.detail for check in checks()}["work queues"].startswith("8 kernels")


def test_the_child_alone_calls_the_driver(gpus: Standin) -> None:
    assert len(probe().gpus) == 2
    assert gpus.trace == []


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"attributes": {"KERNEL_EXEC_TIMEOUT": 1}}, "KERNEL_EXEC_TIMEOUT"),
        ({"architecture": (6, 1)}, "sm_75 to sm_121, not for sm_61"),
        ({"attributes": {"COMPUTE_MODE": 2}}, "nvidia-smi -c DEFAULT"),
        ({"attributes": {"CAN_MAP_HOST_MEMORY": 0}}, "no mapped host memory"),
    ],
)
def test_why_a_gpu_cannot_be_used_is_said(settings: dict[str, Any], why: str) -> None:
    with plug(1, **settings):
        (gpu,) = ask().gpus
    assert why in gpu.refusal


def test_an_old_driver_is_found_and_its_gpus_are_named() -> None:
    with plug(1, driver_version=12040):
        facts = ask()
    assert facts.missing == "the driver takes CUDA 12.4, 13.0 is needed"
    assert (facts.driver, len(facts.gpus), facts.is_without_gpu) == ("12.4", 1, False)


def test_without_devices_that_is_said() -> None:
    """The stand-in with nothing plugged in is a driver that sees no GPU."""
    facts = ask()
    assert facts.is_without_gpu
    assert facts.missing
    assert facts.advice


def test_a_gpu_that_falls_out_is_a_finding() -> None:
    """While it is asked for: no error escapes."""
    fault = Fault("cuDeviceGetName", nth=2, code=999)
    with plug(2, faults=[fault]):
        facts = ask()
    assert "CUDA_ERROR_UNKNOWN" in facts.missing
    assert not facts.gpus
