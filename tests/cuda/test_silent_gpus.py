"""GPUs that answer every question with an error that can be harmless: lost, but not at once."""

from __future__ import annotations

import pytest

from ringflow.device.api import LaunchStatus
from ringflow.device.cuda import driver, launches
from ringflow.errors import DeviceLostError
from tests.cuda.kernels import DEADLINE_S, end, launched, opened, until
from tests.cuda.standin import Fault, Standin


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which a GPU is judged."""
    time_s = [0.0]
    monkeypatch.setattr(launches, "_now_s", lambda: time_s[0])
    return time_s


def seen_looks(gpus: Standin, count: int) -> None:
    """Wait until the watching thread has looked so often."""
    before = len(gpus.calls("cuStreamQuery"))
    until(lambda: len(gpus.calls("cuStreamQuery")) >= before + count)


@pytest.mark.parametrize("code", [46, 999])
def test_a_gpu_that_answers_nothing_but_an_error_is_lost_after_a_while(
    gpus: Standin, now_s: list[float], code: int
) -> None:
    """As one that fell off the bus does: no code tells, and its kernels would run for ever."""
    device = opened()
    kernel = launched(device, "echo")
    gpus.kill(0, code)
    for waited_s in (0.0, 0.9 * launches.UNANSWERED_S):
        now_s[0] = waited_s
        seen_looks(gpus, 3)
        assert (kernel.status, device.lost) == (LaunchStatus.RUNNING, "")
    now_s[0] = 1.1 * launches.UNANSWERED_S
    assert kernel.wait_ended(DEADLINE_S) is not LaunchStatus.RUNNING
    assert driver.code_name(code) in device.lost
    with pytest.raises(DeviceLostError, match=driver.code_name(code)):
        device.allocate(64, label="more")
    kernel.close()
    device.close()


@pytest.mark.parametrize(
    "answers",
    [
        [(999,), (0,), (999,)],  # it was answered meanwhile
        [(999,), (46,), (999,)],  # not always the same
        [(999, 0), (999, 0), (999, 0)],  # another stream was answered
        [(900, 900), (900, 900), (900, 900)],  # somebody captures a graph
    ],
)
def test_errors_that_come_and_go_lose_no_gpu(
    gpus: Standin, now_s: list[float], answers: list[tuple[int, ...]]
) -> None:
    """What one query could not tell, the next one does."""
    device = opened()
    kernels = [launched(device, "echo") for _ in answers[0]]
    with device.launches.still:  # the watching thread does not look meanwhile
        for codes in answers:
            gpus.arm(*(Fault("cuStreamQuery", code=code) for code in codes if code))
            assert device.launches.look()
            now_s[0] += 2 * launches.UNANSWERED_S
    assert (device.lost, gpus.unused_faults) == ("", 0)
    end(*kernels)
    device.close()


def test_a_launch_that_goes_well_begins_the_time_anew(gpus: Standin, now_s: list[float]) -> None:
    """Nobody has asked since the kernel before it ended, and that may be long ago."""
    device = opened()
    with device.launches.still:
        kernels = [launched(device, "echo")]
        for _ in range(2):
            gpus.arm(*[Fault("cuStreamQuery", code=999)] * len(kernels))
            assert device.launches.look()
            now_s[0] += 2 * launches.UNANSWERED_S
            kernels.append(launched(device, "echo"))
    assert (device.lost, gpus.unused_faults) == ("", 0)
    end(*kernels)
    device.close()
