"""Which GPUs there are, and whether kernels can run on them: asked without ever failing.

- A driver can hang or crash whoever asks, so a child process asks, with a deadline.
- No context is made on any GPU: nothing that runs there notices.

``python -m ringflow.device.cuda.probe`` is the child; it prints what it found as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from ringflow.device.cuda import driver, environment
from ringflow.device.cuda.asking import command_of, run_child
from ringflow.device.cuda.context import Attributes, attributes_of, refusal_of
from ringflow.device.cuda.topology import Gpu, links_among
from ringflow.errors import DeviceError, RingflowError

DEADLINE_S: Final = 30.0
_CHILD: Final = command_of("ringflow.device.cuda.probe")
_PROHIBITED: Final = 2
_FORBIDDEN: Final = "this user has no permission for"
_INSTALL: Final = "install NVIDIA's driver where there is a GPU"


@attrs.frozen(kw_only=True)
class GpuFacts:
    """A GPU that the driver sees.

    Attributes:
        name: what ``open_device`` takes.
        model: such as ``"NVIDIA H100 80GB HBM3"``.
        uuid: which stays the same when the order of the GPUs changes.
        architecture: ``"sm_90"``.
        refusal: why kernels can't run on it, with what to do; "" if they can.
    """

    name: str
    model: str
    uuid: str
    architecture: str
    sm_count: int
    memory_bytes: int
    refusal: str = ""


@attrs.frozen(kw_only=True)
class LinkFacts:
    """How two GPUs are connected; see ``topology.Link``."""

    between: tuple[str, str]
    path: str
    distance: str = ""
    unknown: str = ""


@attrs.frozen(kw_only=True)
class CudaFacts:
    """What the driver and NVRTC say.

    Attributes:
        driver: the CUDA version that the driver takes, such as ``"13.0"``; "" without a driver.
        nvrtc: the compiler's version, such as ``"13.5"``; "" without it.
        gpus: in the driver's order.
        missing: why no GPU can be used, a sentence without its full stop; "" if one can.
        advice: what to do about that.
        code: of the driver's error, where it has none for its GPUs.
    """

    driver: str = ""
    nvrtc: str = ""
    gpus: tuple[GpuFacts, ...] = ()
    links: tuple[LinkFacts, ...] = ()
    missing: str = ""
    advice: str = ""
    code: str = ""

    @property
    def is_without_gpu(self) -> bool:
        """Whether there is no GPU or no driver, rather than one that can't be used."""
        return not self.gpus and self.code in ("no driver", "CUDA_ERROR_NO_DEVICE")


def probe(*, deadline_s: float = DEADLINE_S, child: Sequence[str] = _CHILD) -> CudaFacts:
    """Ask in a child process; CUDA isn't started in this one."""
    try:
        ended = run_child(child, deadline_s)
        return _facts(json.loads(ended.stdout))
    except subprocess.TimeoutExpired:
        return CudaFacts(
            missing=f"the NVIDIA driver does not answer within {deadline_s:g} s",
            advice="look at the kernel's log (dmesg) for the GPU, or restart the machine",
        )
    except OSError as error:
        return CudaFacts(missing=f"a process to ask the driver could not be started: {error}")
    except (ValueError, TypeError, KeyError):
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return CudaFacts(
            missing=f"what asks the NVIDIA driver ended with status {ended.returncode}: {last}",
            advice="reinstall driver and cuda-python in versions that fit",
        )


def _facts(found: dict[str, Any]) -> CudaFacts:
    gpus = tuple(GpuFacts(**one) for one in found.pop("gpus"))
    links = tuple(LinkFacts(**{**one, "between": tuple(one["between"])}) for one in found["links"])
    return CudaFacts(**{**found, "gpus": gpus, "links": links})


# In the child


def ask(*, root: Path = Path("/")) -> CudaFacts:
    """Ask the driver in this process; it never raises, but may not return.

    Args:
        root: where /dev and /proc are.
    """
    nvrtc, architectures = _nvrtc()
    facts = CudaFacts(nvrtc=nvrtc)
    driver.prepare()
    try:
        driver.call("cuInit", 0)
    except DeviceError as error:
        missing, advice = why_none(error.code, str(error), root=root)
        code = "permission" if missing.startswith(_FORBIDDEN) else error.code
        return attrs.evolve(facts, missing=missing, advice=advice, code=code)
    try:
        return _asked(facts, architectures)
    except Exception as error:  # a program that only asks goes on
        return attrs.evolve(facts, missing=f"the NVIDIA driver gives no answer ({error})")


def _asked(facts: CudaFacts, architectures: tuple[str, ...]) -> CudaFacts:
    number: int = driver.call("cuDriverGetVersion")
    version = number // 1000, number % 1000 // 10
    seen = [attributes_of(ordinal) for ordinal in range(driver.call("cuDeviceGetCount"))]
    gpus = tuple(
        GpuFacts(
            name=f"cuda:{ordinal}",
            model=one.name,
            uuid=one.uuid,
            architecture=one.architecture,
            sm_count=one.sm_count,
            memory_bytes=one.memory_bytes,
            refusal=_refusal(ordinal, one, facts.nvrtc, architectures),
        )
        for ordinal, one in enumerate(seen)
    )
    found = attrs.evolve(facts, driver=f"{version[0]}.{version[1]}", gpus=gpus, links=_links(gpus))
    needed = max(driver.NEEDED_MAJOR, int(facts.nvrtc.partition(".")[0] or 0))
    if version[0] < needed:
        missing = f"the driver takes CUDA {found.driver}, {needed}.0 is needed"
        return attrs.evolve(found, missing=missing, advice="update the driver")
    if not gpus:
        missing, code = "the NVIDIA driver sees no GPU", "CUDA_ERROR_NO_DEVICE"
        return attrs.evolve(found, missing=missing, advice="look at nvidia-smi", code=code)
    return found


def _refusal(ordinal: int, gpu: Attributes, nvrtc: str, architectures: tuple[str, ...]) -> str:
    """Return why kernels can't run on a GPU."""
    for reason, _ in (refusal_of(gpu), environment.refusal()):
        if reason:
            return reason
    if not nvrtc:
        return "NVRTC, which compiles for it, is missing; pip install 'ringflow[cuda13]'"
    if architectures and gpu.architecture not in architectures:
        return (
            f"NVRTC {nvrtc} compiles for {architectures[0]} to {architectures[-1]}, not for "
            f"{gpu.architecture}; install one that does"
        )
    modes = driver.bindings().CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_MODE
    handle = driver.call("cuDeviceGet", ordinal)
    if driver.call("cuDeviceGetAttribute", modes, handle) == _PROHIBITED:
        return "its compute mode prohibits contexts; set it with nvidia-smi -c DEFAULT"
    return ""


def _nvrtc() -> tuple[str, tuple[str, ...]]:
    """Return NVRTC's version and the architectures that it compiles for; empty without it."""
    from ringflow.device.compiler.nvrtc import known_architectures, nvrtc_version

    try:
        return nvrtc_version().removeprefix("nvrtc "), known_architectures()
    except RingflowError:
        return "", ()


def _links(gpus: Sequence[GpuFacts]) -> tuple[LinkFacts, ...]:
    """Return the links between all pairs of GPUs; none where the driver doesn't tell."""
    handles = [
        Gpu(device=driver.call("cuDeviceGet", ordinal), uuid=one.uuid)
        for ordinal, one in enumerate(gpus)
    ]
    names = {one.uuid: one.name for one in gpus}
    with contextlib.suppress(DeviceError):
        return tuple(
            LinkFacts(
                between=(names[source], names[target]),
                path=link.path,
                distance=link.distance,
                unknown=link.unknown,
            )
            for (source, target), link in links_among(handles).items()
            if names[source] < names[target]
        )
    return ()


def why_none(code: str, told: str, *, root: Path = Path("/")) -> tuple[str, str]:
    """Return why CUDA doesn't start, and what to do, from what the machine shows.

    Args:
        code: of the error that ``cuInit`` gave.
        told: the error's text.
    """
    control = root / "dev" / "nvidiactl"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if code == "not installed":
        return "cuda-python can't be imported", "pip install cuda-python"
    if code == "no driver":
        return "the NVIDIA driver (libcuda.so.1) was not found", _INSTALL
    if not (root / "proc" / "driver" / "nvidia" / "version").exists():
        return "the NVIDIA driver's kernel module is not loaded", _INSTALL
    if not control.exists():
        return "there is no /dev/nvidiactl", "give the container its GPUs (docker run --gpus all)"
    if not os.access(control, os.R_OK | os.W_OK):
        return f"{_FORBIDDEN} /dev/nvidiactl", "add it to the group that has"
    if hidden is not None and code == "CUDA_ERROR_NO_DEVICE":
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides the GPUs", "unset it"
    return f"the NVIDIA driver refuses to start ({code})", told.rpartition(": ")[2]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(attrs.asdict(ask())))
