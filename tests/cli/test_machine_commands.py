"""``ringflow devices`` and ``ringflow doctor``: they never fail, and miss nothing."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringflow.cli import checks
from ringflow.cli.devices import lines
from ringflow.device.compiler import clang
from ringflow.device.cuda.probe import CudaFacts, probe
from ringflow.device.registry import open_device
from tests.cli.program import program

Capture = pytest.CaptureFixture[str]


class FakeDriver(types.ModuleType):
    """The few calls of ``cuda.bindings.driver`` that the probe makes."""

    CUresult = types.SimpleNamespace(CUDA_SUCCESS=0)

    def __init__(self, *, start: object = 0, gpus: tuple[bytes, ...] = ()) -> None:
        super().__init__("cuda.bindings.driver")
        self._start, self._gpus = start, gpus

    def cuInit(self, flags: int) -> tuple[object]:
        if isinstance(self._start, Exception):
            raise self._start
        return (self._start,)

    def cuDriverGetVersion(self) -> tuple[object, int]:
        return 0, 13020

    def cuDeviceGetCount(self) -> tuple[object, int]:
        return 0, len(self._gpus)

    def cuDeviceGet(self, index: int) -> tuple[object, int]:
        return 0, index

    def cuDeviceGetName(self, size: int, device: int) -> tuple[object, bytes]:
        if self._gpus[device] == b"lost":
            return types.SimpleNamespace(name="CUDA_ERROR_LOST"), b""
        return 0, self._gpus[device]


def _with(monkeypatch: pytest.MonkeyPatch, driver: object) -> CudaFacts:
    bindings = types.ModuleType("cuda.bindings")
    bindings.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return probe()


def test_the_probe_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bindings, no library, a driver that refuses, one that has no GPU, one that loses it."""
    found = _with(monkeypatch, FakeDriver(start=RuntimeError("no libcuda\nlong story")))
    assert found.missing == "the NVIDIA driver was not found (no libcuda)"
    refused = FakeDriver(start=types.SimpleNamespace(name="CUDA_ERROR_NO_DEVICE"))
    assert _with(monkeypatch, refused).missing.endswith("CUDA_ERROR_NO_DEVICE")
    assert _with(monkeypatch, FakeDriver()).missing == "the NVIDIA driver sees no GPU"
    found = _with(monkeypatch, FakeDriver(gpus=(b"NVIDIA H100\0\0", b"B")))
    assert found == CudaFacts(driver="13.2", gpus=("NVIDIA H100", "B"))
    assert "CUDA_ERROR_LOST" in _with(monkeypatch, FakeDriver(gpus=(b"lost",))).missing
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert "cuda-python can't be imported" in probe().missing


def test_devices_tell_what_open_device_takes(capsys: Capture) -> None:
    code, out, _ = program(capsys, "devices", "--json")
    host = orjson.loads(out)["host"]
    device = open_device("host:3")
    try:
        assert (code, host["memory_bytes"]) == (0, device.memory_bytes)
    finally:
        device.close()
    assert host["workers"] >= 1
    assert host["cpu"]
    code, out, _ = program(capsys, "devices")
    assert code == 0
    assert out.startswith("host:N  ")
    assert "\ncuda" in out


def test_a_gpu_is_named() -> None:
    host: dict[str, Any] = {
        "names": "host:N",
        "memory_bytes": 2**30,
        "workers": 3,
        "architecture": "x86_64",
        "cpu": "znver4",
        "features": ["avx2"],
    }
    cuda: dict[str, Any] = {"driver": "13.2", "gpus": ["G"], "missing": ""}
    assert lines(host, cuda) == [
        "host:N  1.0GiB of memory, 3 workers, x86_64 znver4 (avx2)",
        "cuda:0  G, driver for CUDA 13.2",
    ]


def test_doctor_is_content_here_and_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    """What the tests need is there; the folder need not exist yet, and is not made."""
    code, out, _ = program(capsys, "doctor", "--folder", tmp_path / "to" / "be", "--json")
    found = {one["name"]: one for one in map(orjson.loads, out.splitlines())}
    needed = [one for one in found.values() if one["is_needed"]]
    assert code == 0
    assert all(one["is_ok"] for one in needed)
    assert found["folder"]["detail"].startswith(str(tmp_path))
    assert " ms, the median of " in found["fdatasync"]["detail"]
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_to_do(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, on a network disk: exit 1, and each line with its remedy."""
    monkeypatch.setattr(clang, "_ziglang", lambda: None)
    monkeypatch.setattr(clang, "_system_clang", lambda: None)
    clang.find_clang.cache_clear()
    monkeypatch.setattr("ringflow.files.mount_type", lambda path, mountinfo: "nfs4")
    try:
        code, out, _ = program(capsys, "doctor", "--folder", "/tmp")
    finally:
        clang.find_clang.cache_clear()
    assert code == 1
    lines = {line.split()[1]: line for line in out.splitlines()}
    assert lines["clang"].startswith("missing")
    assert "pip install 'ringflow[host]'" in lines["clang"]
    assert "nfs4" in lines["folder"]
    assert "use a local disk" in lines["folder"]


def test_each_check_finds_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not checks.python((3, 10, 9)).is_ok
    assert not checks.system("darwin", "arm64").is_ok
    assert not checks.futex("riscv64").is_ok
    monkeypatch.setitem(__import__("ringflow.device.native", fromlist=["x"]).FUTEX_CALLS, "x", 9999)
    assert checks.futex("x").detail == os.strerror(38)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RINGFLOW_CACHE_DIR", str(tmp_path / "file"))
    found = checks.cache()
    assert not found.is_ok
    assert "set RINGFLOW_CACHE_DIR" in found.text
    assert not checks.sync(tmp_path / "gone").is_ok
    monkeypatch.delattr(os, "eventfd")
    assert not checks.eventfd().is_ok
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    for check in (checks.nvrtc(), checks.driver()):
        assert not check.is_ok
        assert check.text.endswith("only GPUs need it")
