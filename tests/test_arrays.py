"""Arrays of other libraries: taken without a copy, given back once, and refused with a reason."""

from __future__ import annotations

import array
import gc
from typing import Any

import numpy as np
import pytest

import ringflow
from ringflow.arrays import DeviceArray, taken
from ringflow.dlpack import DeviceType, Tensor, give, given_count, take
from tests.producers import Capsules, CudaArray, Stream

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)
ON_GPU = (DeviceType.CUDA, 1)
DTYPES = [
    *("int8", "uint8", "int16", "uint16", "float16", "int32", "uint32", "float32"),
    *("int64", "uint64", "float64", "bool", "complex64", "complex128"),
]


# DLPack, with numpy's C code at the other end


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("knows_versions", [True, False])
def test_numpy_reads_what_is_given(dtype: str, knows_versions: bool) -> None:
    """The same memory, dtype and shape; it is given back with numpy's last view of it."""
    values = np.ones((2, 3), dtype)
    before = given_count()
    read = np.from_dlpack(Capsules(values, knows_versions=knows_versions))
    assert (read.dtype, read.shape) == (values.dtype, values.shape)
    assert np.shares_memory(read, values)
    part = read[1:]
    del read
    assert given_count() == before + 1
    del part
    gc.collect()
    assert given_count() == before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_version", [(1, 0), None])
def test_what_numpy_gives_is_read(dtype: str, max_version: tuple[int, int] | None) -> None:
    values = np.arange(24).astype(dtype).reshape(4, 6)[::2, 1::2]
    found = take(values.__dlpack__(max_version=max_version))
    tensor = found.tensor
    assert (tensor.dtype, tensor.shape, tensor.element_bytes) == (dtype, (2, 3), values.itemsize)
    assert tensor.address == values.ctypes.data
    assert tensor.strides == tuple(stride // values.itemsize for stride in values.strides)
    assert tensor.device == (DeviceType.CPU, 0)
    found.release()


def test_read_only_is_told_in_both_directions() -> None:
    assert not np.from_dlpack(Capsules(VALUES, read_only=True)).flags.writeable
    frozen = VALUES.copy()
    frozen.flags.writeable = False
    found = take(frozen.__dlpack__(max_version=(1, 0)))
    assert found.tensor.read_only
    found.release()


def test_a_capsule_that_nobody_takes_is_forgotten() -> None:
    for versioned in (True, False):
        before = given_count()
        tensor = Tensor(address=0, dtype="int8", element_bytes=1, shape=(0,))
        capsule = give(tensor, None, versioned=versioned)
        assert given_count() == before + 1
        del capsule
        assert given_count() == before


@pytest.mark.parametrize("versioned", [True, False])
def test_an_error_survives_the_end_of_a_capsule(versioned: bool) -> None:
    """It goes while the error is on its way; whoever took the array may be gone then, too."""
    before = given_count()
    tensor = Tensor(address=0, dtype="int8", element_bytes=1, shape=(0,))
    with pytest.raises(ZeroDivisionError):
        _ = (give(tensor, None, versioned=versioned), 1 // 0)
    with pytest.raises(ZeroDivisionError):
        _ = (np.from_dlpack(Capsules(VALUES, knows_versions=versioned)), 1 // 0)
    gc.collect()
    assert given_count() == before


def test_a_capsule_is_taken_once() -> None:
    """Else its memory would be given back twice; nor is anything else a capsule."""
    capsule = VALUES.__dlpack__(max_version=(1, 0))
    found = take(capsule)
    for wrong in (capsule, b"bytes", None):
        with pytest.raises(ringflow.UsageError, match="is no DLPack capsule, or was used before"):
            take(wrong)
    found.release()
    found.release()  # nothing more


# What is taken, from whom


def test_host_memory_is_taken_without_a_copy() -> None:
    """Whatever its strides are, and however it is offered."""
    for given in (
        VALUES,
        Capsules(VALUES),
        Capsules(VALUES, knows_versions=False),
        Capsules(VALUES, device=(DeviceType.CUDA_HOST, 0)),
        VALUES.data,
    ):
        found = taken(given)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, VALUES)
        assert np.shares_memory(found, VALUES)
    for strided in (VALUES[::-1], VALUES[:, ::-2], VALUES.T, VALUES[1:2, 3:], VALUES[0:0]):
        np.testing.assert_array_equal(taken(Capsules(strided)), strided)


def test_buffers_of_python_are_taken() -> None:
    """Bytes are numbers; a text has no bytes yet."""
    for given in (b"\1\2", bytearray(b"\1\2"), memoryview(b"\1\2"), array.array("B", [1, 2])):
        region = ringflow.Region("r", dtype="uint8", shape=(2,), initial=given)
        assert isinstance(region.initial, np.ndarray)
        assert region.initial.tolist() == [1, 2]
    ringflow.Region("r", dtype="float32", shape=(2,), initial=array.array("f", [1, 2]))
    with pytest.raises(ringflow.UsageError, match="encode"):
        taken("text")


def test_host_memory_is_given_back_with_the_last_view() -> None:
    before = given_count()
    found = taken(Capsules(VALUES))
    assert isinstance(found, np.ndarray)
    part = found[1]
    del found
    gc.collect()
    assert given_count() == before + 1
    assert part.tolist() == VALUES[1].tolist()
    del part
    gc.collect()
    assert given_count() == before
    assert not taken(Capsules(VALUES, read_only=True)).flags.writeable  # type: ignore[union-attr]


def test_a_gpus_array_is_described() -> None:
    """By both protocols alike; its stream is the one that it names."""
    first = taken(CudaArray(4096, (3, 4), "<f4", stream=77))
    second = taken(Capsules(VALUES, device=ON_GPU, address=4096))
    for found in (first, second):
        assert isinstance(found, DeviceArray)
        assert (found.dtype, found.shape, found.address) == ("float32", (3, 4), 4096)
        assert found.size_bytes == 48
    assert isinstance(first, DeviceArray)
    assert isinstance(second, DeviceArray)
    assert (first.stream, second.stream) == (77, 1)


@pytest.mark.parametrize(
    ("typestr", "dtype", "size_bytes"),
    [
        ("<f2", "float16", 2), ("|b1", "bool", 1), ("|u1", "uint8", 1), ("<c16", "complex128", 16),
        (">i4", ">i4", 4), ("|V6", "|V6", 6), ("<U3", "<U3", 12), ("<M8[ns]", "datetime64[ns]", 8),
    ],
)  # fmt: skip
def test_types_are_numpys(typestr: str, dtype: str, size_bytes: int) -> None:
    found = taken(CudaArray(64, (1,), typestr))
    assert isinstance(found, DeviceArray)
    assert (found.dtype, found.size_bytes) == (dtype, size_bytes)


def test_the_producers_stream_is_asked_for_by_its_protocol() -> None:
    """DLPack's gets the default stream to wait on its own; an old interface names none."""
    both = Capsules(VALUES, device=ON_GPU)
    taken(both)
    assert both.streams == [1]
    for more in ({}, {"stream": None}):
        found = taken(CudaArray(4096, (3,), "<f4", **more))
        assert isinstance(found, DeviceArray)
        assert found.stream == 0  # nothing to wait for
    host = Capsules(VALUES)
    taken(host)
    assert host.streams == [None]


def test_a_program_may_say_the_stream() -> None:
    """Then the library is asked to wait for nothing itself."""
    shape = (3,)
    producer = Capsules(VALUES, device=ON_GPU)
    for given in (CudaArray(4096, shape, "<f4"), CudaArray(4096, shape, "<f4", stream=5), producer):
        assert ringflow.on_stream(given, Stream(99)).stream == 99
        assert ringflow.on_stream(given, 99).stream == 99
        assert ringflow.on_stream(given, Stream(0)).stream == 1
    assert producer.streams == [-1, -1, -1]
    for wrong in (0, -1, "2", None):
        with pytest.raises(ringflow.UsageError, match="is no stream"):
            ringflow.on_stream(producer, wrong)
    with pytest.raises(ringflow.UsageError, match="version 1 of __cuda_stream__"):
        ringflow.on_stream(producer, Stream(9, version=1))
    for host in (VALUES, Capsules(VALUES), b"bytes"):
        with pytest.raises(ringflow.UsageError, match="is not in a GPU's memory"):
            ringflow.on_stream(host, 99)


def test_a_gpus_array_is_kept_as_long_as_its_description() -> None:
    before = given_count()
    found = taken(Capsules(VALUES, device=ON_GPU))
    named = ringflow.on_stream(Capsules(VALUES, device=ON_GPU), 9)
    gc.collect()
    assert given_count() == before + 2
    del found, named
    gc.collect()
    assert given_count() == before


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (CudaArray(64, (3, 4), "<f4", strides=(4, 12)), "not contiguous in C order"),
        (Capsules(VALUES.T, device=ON_GPU), "not contiguous in C order"),
        (CudaArray(64, (3,), "<f4", mask=object()), "has a mask"),
        (CudaArray(64, (3,), "<f4", stream=0), "names stream 0"),
        (CudaArray(64, (3,), "O", stream=1), "has no bytes"),
        (CudaArray(64, (3,), "<f3"), "has no bytes"),
        (CudaArray(64, (3,), "|V0"), "has no bytes"),
        (Capsules(VALUES, device=(10, 0)), "memory of another kind"),
        ([object()], "has no bytes; pass numbers"),
        (np.array([None]), "has no bytes; pass numbers"),
    ],
)
def test_what_is_of_no_use_is_refused(given: Any, why: str) -> None:
    """With what to do, and nothing is kept."""
    before = given_count()
    with pytest.raises(ringflow.UsageError, match=why):
        taken(given)
    gc.collect()
    assert given_count() == before


def test_strides_of_one_element_are_anything() -> None:
    for strides in ((999, 4), (4, 4)):
        assert isinstance(taken(CudaArray(64, (1, 3), "<f4", strides=strides)), DeviceArray)
    assert isinstance(taken(CudaArray(0, (0, 3), "<f4", strides=(1, 1))), DeviceArray)


def test_a_librarys_refusal_is_told() -> None:
    class Gradient:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **options: Any) -> object:
            raise BufferError("use tensor.detach()")

    with pytest.raises(ringflow.UsageError, match=r"Gradient does not give .* tensor.detach\(\)"):
        taken(Gradient())


# Regions


def test_a_region_checks_any_librarys_array() -> None:
    """As it checks numpy's: dtype and shape must be the region's."""
    for given in (VALUES, Capsules(VALUES), Capsules(VALUES, device=ON_GPU)):
        region = ringflow.Region("r", dtype="float32", shape=(3, 4), initial=given)
        assert region.initial is not None
        assert region.initial.shape == (3, 4)
        for wrong in ({"dtype": "int32", "shape": (3, 4)}, {"dtype": "float32", "shape": (12,)}):
            with pytest.raises(ringflow.RegionMismatchError, match=r"float32\(3, 4\)"):
                ringflow.Region("r", initial=given, **wrong)
    big = CudaArray(64, (3,), ">f4", stream=None)
    with pytest.raises(ringflow.RegionMismatchError, match=">f4"):
        ringflow.Region("r", dtype="float32", shape=(3,), initial=big)


# Other libraries


@pytest.mark.library("torch")
def test_pytorch_arrays_are_taken_and_made() -> None:
    import torch  # type: ignore[import-not-found, unused-ignore]

    tensor = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    found = taken(tensor)
    tensor[0, 0] = 7
    np.testing.assert_array_equal(found, tensor.numpy())
    half = taken(tensor.to(torch.bfloat16))
    assert isinstance(half, np.ndarray)
    assert half.nbytes == 24
    with pytest.raises(ringflow.UsageError, match="detach"):
        taken(tensor.clone().requires_grad_())
    assert torch.from_dlpack(Capsules(VALUES, read_only=True)).tolist() == VALUES.tolist()


@pytest.mark.gpu
@pytest.mark.library("cupy")
def test_cupy_arrays_are_taken() -> None:
    """On a machine without a GPU CuPy makes none."""
    cupy = pytest.importorskip("cupy")
    given = cupy.arange(12, dtype=cupy.float32).reshape(3, 4)
    found = taken(given)
    assert isinstance(found, DeviceArray)
    assert (found.dtype, found.shape, found.address) == ("float32", (3, 4), given.data.ptr)
