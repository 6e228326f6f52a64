"""Specs, regions, code and messages: what is wrong is refused when it is made, by its own error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ringflow
from ringflow.errors import SpecError, UnknownDeviceError, UsageError

SOURCE = 'extern "C" __global__ void k(void* control) {}\n'


@ringflow.message(1)
class Add:
    value: ringflow.u32


def _spec(**given: Any) -> ringflow.KernelSpec:
    code = ringflow.KernelCodeSource.from_cuda(SOURCE, "k")
    return ringflow.KernelSpec(**{"kernel_id": "k", "kernel_type": "k", "code": code, **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"code": None}, "from_cuda"),
        ({"code": SOURCE}, "from_cuda"),
        ({"messages": [Add(1)]}, "give the class"),
        ({"messages": [int]}, "decorate it"),
        ({"regions": ["state"]}, "Region"),
        ({"routes": [3]}, "Route"),
        ({"routes": ["a-b"]}, "choose another"),
        ({"routes": ["class"]}, "choose another"),
        ({"arguments": [3]}, "Argument"),
        ({"grid": 2.5}, "three positive integers"),
        ({"grid": (1, 2)}, "three positive integers"),
        ({"grid": "fil"}, "three positive integers"),
        ({"grid": None}, "three positive integers"),
        ({"block": (2.5, 1, 1)}, "three positive integers"),
        ({"block": 0}, "three positive integers"),
        ({"ring_slots": "256"}, "must be an integer"),
        ({"max_replies": 1.0}, "must be an integer"),
        ({"checkpoint_every_s": "1"}, "must be a number"),
        ({"kernel_id": 3}, "is not a name"),
    ],
)
def test_a_spec_with_a_bad_value_is_never_made(given: dict[str, Any], says: str) -> None:
    """Nothing is left for a launch to stumble over; the error says what to give instead."""
    with pytest.raises(SpecError, match=says):
        _spec(**given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shape": (2.5,)}, "positive integers"),
        ({"shape": "3"}, "positive integers"),
        ({"shape": 0}, "positive integers"),
        ({"shape": None}, "positive integers"),
        ({"dtype": "flot32"}, "is none of int8"),
        ({"dtype": None}, "is none of int8"),
        ({"dtype": bool}, "is none of int8"),
        ({"dtype": ">f4"}, "is none of int8"),
        ({"dtype": "O"}, "is none of int8"),
    ],
)
def test_a_region_with_a_bad_value_is_never_made(given: dict[str, Any], says: str) -> None:
    """Nothing is rounded, and no dtype is taken for one that it only resembles."""
    with pytest.raises(SpecError, match=f"region 'a': .*{says}"):
        ringflow.Region("a", **{"dtype": "float32", "shape": (3,), **given})


def test_dtypes_and_shapes_are_taken_as_numpy_takes_them() -> None:
    """A region that is given otherwise is the same region; so are grids and blocks."""
    usual = ringflow.Region("a", dtype="float32", shape=(3,))
    for dtype in (np.float32, np.dtype("f4"), "f4", "<f4"):
        assert ringflow.Region("a", dtype=dtype, shape=(3,)) == usual
    for shape in (3, np.int64(3), [3], np.zeros(3).shape):
        region = ringflow.Region("a", dtype="float32", shape=shape)
        assert region == usual
        assert type(region.shape[0]) is int
    given: Any = 4
    assert _spec(grid=given, block=np.int64(64)) == _spec(grid=(4, 1, 1), block=(64, 1, 1))


@pytest.mark.parametrize(
    "given", ["kernel.cu", "dir/kernel.cu\n", "k.ptx", Path("kernel.cu"), SOURCE.encode(), None]
)
def test_code_is_its_text_and_no_name_of_a_file(given: Any) -> None:
    """Not the compiler, which takes the name for source, but who was given it says so."""
    for make in (ringflow.KernelCodeSource.from_cuda, ringflow.KernelCodeSource.from_ptx):
        with pytest.raises(SpecError, match="read_text"):
            make(given, "k")


def test_source_on_a_single_line_is_source() -> None:
    """What includes all of it from elsewhere names a file as well."""
    for text in ('#include "kernel.cu"', SOURCE.strip()):
        assert ringflow.KernelCodeSource.from_cuda(text, "k").text == text


@pytest.mark.parametrize("entry_point", ["", "a b", "1", None])
def test_an_entry_point_is_an_identifier(entry_point: Any) -> None:
    """Whatever its type."""
    with pytest.raises(SpecError, match="entry point"):
        ringflow.KernelCodeSource.from_cuda(SOURCE, entry_point)


def _message(number: Any, fields: dict[str, Any]) -> object:
    return ringflow.message(number)(type("M", (), {"__annotations__": fields}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"a": int}, "M.a must be annotated"),
        ({"a": "nowhere.u32"}, "can't be read in its module: name 'nowhere'"),
        ({"class": ringflow.u32}, "keyword of Python"),
        ({"lambda": ringflow.u32}, "keyword of Python"),
        ({"int": ringflow.u32}, "C\\+\\+"),
        ({"id": ringflow.u32}, "uses itself"),
        ({"M": ringflow.u32}, "uses itself"),
    ],
)
def test_a_field_that_no_struct_can_have_is_refused_with_its_class(
    fields: dict[str, Any], says: str
) -> None:
    """By name, and before any spec has the message."""
    with pytest.raises(SpecError, match=says):
        _message(1, fields)


@pytest.mark.parametrize("id", ["1", None, 1.0, Add])
def test_a_message_id_is_an_integer(id: Any) -> None:
    """Also where the decorator was given no id at all, but the class."""
    with pytest.raises(SpecError, match=r"@ringflow.message\(1\)"):
        _message(id, {"a": ringflow.u32})


@pytest.mark.parametrize(
    "given",
    [
        {"step_timeout_s": -1},
        {"step_timeout_s": float("nan")},
        {"parked_messages": 0},
        {"state_snapshot_records": -1},
        {"launch_timeout_s": "30"},
    ],
)
def test_limits_are_above_zero(given: dict[str, Any]) -> None:
    """No time-out is over before it begins."""
    (name,) = given
    with pytest.raises(UsageError, match=f"EngineLimits.{name}"):
        ringflow.EngineLimits(**given)
    assert ringflow.EngineLimits(state_snapshot_records=0).state_snapshot_records == 0


@pytest.mark.parametrize("name", ["host:0", "cuda:0"])
@pytest.mark.parametrize("size", ["memory_limit_bytes", "mapped_limit_bytes", "local_memory_bytes"])
@pytest.mark.parametrize("value", [-5, 0])
def test_a_device_is_given_sizes_above_zero(name: str, size: str, value: int) -> None:
    """Asked before the device is opened: no GPU is needed to say so."""
    given: dict[str, Any] = {size: value}
    with pytest.raises(UsageError, match=f"{size} is {value}") as refused:
        ringflow.open_device(name, **given)
    assert not isinstance(refused.value, UnknownDeviceError)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["limits", "journal_limits"])
async def test_limits_that_are_none_open_nothing(name: str, tmp_path: Path) -> None:
    """A mapping is refused as such, and not out of the middle of an opening."""
    given: dict[str, Any] = {name: {"step_timeout_s": 1}}
    with pytest.raises(UsageError, match=f"^{name} is .*; give a ringflow"):
        async with ringflow.open_engine(tmp_path / "state", devices=[], **given):
            pass
    assert not (tmp_path / "state").exists()
