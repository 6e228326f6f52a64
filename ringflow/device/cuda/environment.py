"""What the NVIDIA driver reads from the environment, once: when CUDA starts in a process.

- Set here, as far as the user has not: work queues enough for kernels that never end, and code
  loaded when it is loaded, not at its first launch.
- Refused here: settings with which kernels that never end keep everything else from running.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from ringflow.device.cuda.ledger import COPY_QUEUES

QUEUES: Final = "CUDA_DEVICE_MAX_CONNECTIONS"
BLOCKING: Final = "CUDA_LAUNCH_BLOCKING"
QUEUES_MAX: Final = 32
ENVIRONMENT: Final[Mapping[str, str]] = {
    QUEUES: str(QUEUES_MAX),
    "CUDA_MODULE_LOADING": "EAGER",
}
QUEUES_DEFAULT: Final = 8
"""Work queues a device where ``CUDA_DEVICE_MAX_CONNECTIONS`` says nothing."""


def prepare() -> None:
    """Set what the user has not; only before CUDA starts, so that what is set is what counts."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def queue_count() -> int:
    """Return how many hardware work queues each device has for this process, from 1 to 32."""
    given = os.environ.get(QUEUES, "")
    return max(1, min(int(given), QUEUES_MAX)) if given.isdecimal() else QUEUES_DEFAULT


def refusal() -> tuple[str, str]:
    """Return why kernels can't run with these settings, and a code for it; empty if they can."""
    blocking = os.environ.get(BLOCKING, "")
    if blocking not in ("", "0"):
        return (
            f"with {BLOCKING}={blocking} the launch of a kernel that never ends never returns; "
            "unset it before the process starts",
            "launch blocking",
        )
    if queue_count() <= COPY_QUEUES:
        return (
            f"with {QUEUES}={os.environ[QUEUES]} copies wait for kernels that never end: "
            f"{COPY_QUEUES} work queues are for copies, and each kernel needs one; unset it, or "
            "set it to 32, before the process starts",
            "queues",
        )
    return "", ""
