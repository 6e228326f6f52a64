"""The one funnel to the driver: names, codes and advice, whatever is missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ringflow.device.cuda import driver
from ringflow.errors import DeviceError


class Missing(Exception):
    """As the bindings raise it for a function that the driver lacks."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the driver's functions answer, by name."""
    from cuda.bindings import driver as real

    answers: dict[str, Any] = {"cuInit": (0,), "cuDriverGetVersion": (0, 13020)}

    def function(name: str) -> Any:
        def answer(*arguments: Any) -> Any:
            found = answers[name]
            if isinstance(found, Exception):
                raise found
            return found

        return answer

    class Bindings(SimpleNamespace):
        CUresult = real.CUresult

        def __getattr__(self, name: str) -> Any:
            return function(name)

    monkeypatch.setattr(driver, "bindings", Bindings)
    return answers


def test_values_come_as_they_are(calls: dict[str, Any]) -> None:
    """None, one, or a tuple of several."""
    calls.update(cuNone=(0,), cuOne=(0, 7), cuTwo=(0, 1, 2))
    assert driver.call("cuNone") is None
    assert driver.call("cuOne") == 7
    assert driver.call("cuTwo") == (1, 2)
    assert driver.start() == (13, 2)


@pytest.mark.parametrize(
    ("result", "code", "advice"),
    [
        (2, "CUDA_ERROR_OUT_OF_MEMORY", "smaller memory_limit_bytes"),
        (100, "CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
        (209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "another architecture"),
        (719, "CUDA_ERROR_LAUNCH_FAILED", "every kernel in it are lost"),
        (424242, "CUDA_ERROR_424242", "manual"),
    ],
)
def test_failures_name_call_code_and_what_to_do(
    calls: dict[str, Any], result: int, code: str, advice: str
) -> None:
    """Also a code that is newer than the bindings."""
    calls["cuSomething"] = (result, None)
    with pytest.raises(DeviceError, match=advice) as raised:
        driver.call("cuSomething")
    assert (raised.value.call, raised.value.code) == ("cuSomething", code)
    assert str(raised.value).startswith(f"cuSomething failed with {code} ({result}): ")
    assert driver.is_lost(raised.value) == (result == 719)


def test_what_has_not_ended_is_no_failure(calls: dict[str, Any]) -> None:
    """CUDA_ERROR_NOT_READY answers a question."""
    for result, ended in ((0, True), (600, False)):
        calls["cuEventQuery"] = (result,)
        assert driver.ask("cuEventQuery") is ended
    calls["cuEventQuery"] = (700,)
    with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
        driver.ask("cuEventQuery")


@pytest.mark.parametrize(
    ("name", "answer", "code", "text"),
    [
        ("cuInit", RuntimeError("no libcuda.so.1\nat all"), "no driver", "was not found"),
        ("cuInit", (100,), "CUDA_ERROR_NO_DEVICE", "CUDA does not start: cuInit failed"),
        ("cuInit", (803,), "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart the machine"),
        ("cuDriverGetVersion", (0, 12080), "old driver", r"takes CUDA 12\.8, 13\.0 is needed"),
        ("cuDriverGetVersion", Missing("cuX"), "old driver", "update the driver"),
    ],
)
def test_each_thing_that_keeps_cuda_from_starting_has_its_error(
    calls: dict[str, Any], name: str, answer: Any, code: str, text: str
) -> None:
    """No driver, no device, an old driver."""
    calls[name] = answer
    with pytest.raises(DeviceError, match=text) as raised:
        driver.start()
    assert raised.value.code == code


def test_without_cuda_python_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a dependency that some platforms don't have."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DeviceError, match="pip install cuda-python"):
        driver.call("cuInit", 0)
