"""``ringflow devices`` and ``ringflow doctor``: they never fail, and miss nothing."""

from __future__ import annotations

import enum
import os
import sys
import types
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest

from ringflow.cli import checks
from ringflow.cli.devices import lines
from ringflow.device.compiler import clang
from ringflow.device.cuda.probe import CudaFacts, GpuFacts, LinkFacts, ask, probe
from ringflow.device.registry import open_device
from ringflow.files import SystemFiles
from ringflow.journal.api import JournalLimits
from tests.cli.program import program

INSTALL = "install NVIDIA's driver where there is a GPU"
Capture = pytest.CaptureFixture[str]


CUDA = CudaFacts(
    driver="13.2",
    nvrtc="13.5",
    gpus=(
        GpuFacts(
            name="cuda:0",
            model="NVIDIA H100\x1b[2J",
            uuid="GPU-1",
            architecture="sm_90",
            sm_count=132,
            memory_bytes=80 << 30,
        ),
        GpuFacts(
            name="cuda:1",
            model="Display",
            uuid="GPU-2",
            architecture="sm_75",
            sm_count=40,
            memory_bytes=8 << 30,
            refusal="its display driver ends kernels; use another",
        ),
    ),
    links=(LinkFacts(between=("cuda:0", "cuda:1"), path="staged", unknown="NVML is not there"),),
)


def _says(text: str) -> list[str]:
    """Return a child that says something else than the probe's."""
    return [sys.executable, "-c", f"print({text!r})"]


def test_the_probe_never_fails_and_never_hangs() -> None:
    """A child that says what it should, that hangs, crashes, talks, or can't be started."""
    said = orjson.dumps(attrs.asdict(CUDA)).decode()
    assert probe(child=_says(said)) == CUDA
    endless = [sys.executable, "-c", "while True: pass"]
    assert probe(child=endless, deadline_s=0.2).missing.endswith("not answer within 0.2 s")
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"]
    assert "ended with status -11" in probe(child=killed).missing
    for wrong in (_says("hello"), _says("{}"), _says("[1]"), _says('{"gpus": [1], "links": []}')):
        assert "ended with status 0" in probe(child=wrong).missing
    assert "could not be started" in probe(child=["/no/such/program"]).missing


def test_a_real_child_answers() -> None:
    """Whatever this machine has, the answer is whole."""
    facts = probe()
    assert facts.nvrtc.startswith("13.")
    assert bool(facts.gpus) or facts.missing


class _FailingDriver(types.ModuleType):
    """A driver that does not start."""

    class CUresult(enum.IntEnum):
        CUDA_ERROR_NO_DEVICE = 100
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803

    def __init__(self, outcome: object) -> None:
        super().__init__("cuda.bindings.driver")
        self._outcome = outcome

    def cuInit(self, flags: int) -> tuple[object]:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return (self._outcome,)


def _asked(monkeypatch: pytest.MonkeyPatch, driver: object, root: Path) -> CudaFacts:
    bindings = types.ModuleType("cuda.bindings")
    bindings.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return ask(root=root)


def test_why_there_is_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the error, and from what the machine shows; each with its remedy."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    absent = _FailingDriver(RuntimeError("no libcuda\nlong story"))
    refused, mismatched = _FailingDriver(100), _FailingDriver(803)
    found = [_asked(monkeypatch, absent, tmp_path), _asked(monkeypatch, refused, tmp_path)]
    (tmp_path / "proc" / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "proc" / "driver" / "nvidia" / "version").touch()
    found.append(_asked(monkeypatch, refused, tmp_path))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # root may do all
        found.append(_asked(patch, refused, tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found.append(_asked(monkeypatch, refused, tmp_path))
    found.append(_asked(monkeypatch, mismatched, tmp_path))
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    found.append(ask())
    assert [(one.missing, one.advice) for one in found] == [
        ("the NVIDIA driver (libcuda.so.1) was not found", INSTALL),
        ("the NVIDIA driver's kernel module is not loaded", INSTALL),
        ("there is no /dev/nvidiactl", "give the container its GPUs (docker run --gpus all)"),
        ("this user has no permission for /dev/nvidiactl", "add it to the group that has"),
        ("CUDA_VISIBLE_DEVICES='' hides the GPUs", "unset it"),
        (
            "the NVIDIA driver refuses to start (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)",
            "driver and libraries are of different versions; restart the machine after an update",
        ),
        ("cuda-python can't be imported", "pip install cuda-python"),
    ]
    assert [one.is_without_gpu for one in found] == [True, True, True, False, True, False, False]


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
    assert len(out.splitlines()) >= 2  # GPUs, or why there is none


def test_gpus_links_and_what_is_wrong_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    host: dict[str, Any] = {
        "names": "host:N",
        "memory_bytes": 2**30,
        "workers": 3,
        "architecture": "x86_64",
        "cpu": "znver4",
        "features": ["avx2"],
    }
    assert lines(host, attrs.asdict(CUDA)) == [
        "host:N  1.0GiB of memory, 3 workers, x86_64 znver4 (avx2)",
        r"cuda:0  NVIDIA H100\x1b[2J, 80.0GiB of memory, sm_90, 132 SMs, GPU-1",
        "cuda:1  Display, 8.0GiB of memory, sm_75, 40 SMs, GPU-2",
        "        can't be used: its display driver ends kernels; use another",
        "cuda:0 - cuda:1  staged; NVML is not there",
        "cuda    driver for CUDA 13.2, NVRTC 13.5",
    ]
    old = CudaFacts(driver="12.4", missing="the driver is old", advice="update it")
    assert lines(host, attrs.asdict(old))[1:] == [
        "cuda    driver for CUDA 12.4, NVRTC missing",
        "cuda    none can be used: the driver is old; update it",
    ]
    none = CudaFacts(nvrtc="13.5", missing="no NVIDIA driver", advice="install it")
    assert lines(host, attrs.asdict(none))[1:] == [
        "cuda    NVRTC 13.5",
        "cuda    none can be used: no NVIDIA driver; install it",
    ]
    monkeypatch.setattr("ringflow.device.cuda.probe.probe", lambda: CUDA)
    found = {one.name: one for one in checks.gpus()}
    assert [(name, one.verdict) for name, one in found.items()] == [
        ("driver", "ok"),
        ("cuda:0", "ok"),
        ("cuda:1", "missing"),
        ("work queues", "ok"),
        ("cuda:0-cuda:1", "ok"),
    ]
    assert found["cuda:1"].text.endswith("use another; only GPUs need it")
    monkeypatch.setattr("ringflow.device.cuda.probe.probe", lambda: old)
    assert checks.gpus()[0].text == "the driver is old; update it; only GPUs need it"


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are made all the same."""

    def broken() -> None:
        raise ValueError("nobody thought of it")

    monkeypatch.setattr("ringflow.device.cuda.probe.probe", broken)
    monkeypatch.setattr(checks, "eventfd", broken)
    found = {one.name: one for one in checks.all_checks((3, 11, 0), ("linux", "x86_64"), None)}
    assert "nobody thought of it" in found["driver"].text
    assert (found["driver"].is_needed, found["eventfd"].is_needed) == (False, True)
    assert found["cache"].is_ok


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
    check = checks.nvrtc()
    assert not check.is_ok
    assert check.text.endswith("only GPUs need it")


@pytest.mark.parametrize(("more_bytes", "is_ok"), [(0, False), (1, True)])
def test_doctor_asks_for_the_space_that_an_engine_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more_bytes: int, is_ok: bool
) -> None:
    """Its reserve, and a word on it."""
    free_bytes = JournalLimits().reserve_bytes + more_bytes
    monkeypatch.setattr(SystemFiles, "free_bytes", lambda self, folder: free_bytes)
    (space,) = [check for check in checks.place(tmp_path) if check.name == "space"]
    assert space.is_ok == is_ok
    assert ("with 64.0MiB or less an engine refuses messages" in space.text) != is_ok
