"""What a scenario says of kernels and messages is read back as what it was."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from ringflow import messages as kinds
from ringflow.code_source import KernelCodeSource
from ringflow.messages import message
from ringflow.scenario.describing import (
    PLAIN,
    array_of,
    changes_of,
    messages_of,
    payload_of,
    spec_of,
)
from ringflow.scenario.script import words_of
from ringflow.scenario.telling import (
    array_value,
    changed_words,
    kernel_line,
    layout_text,
    message_words,
    source_lines,
)
from ringflow.spec import KernelSpec, Region, Route
from ringflow.spec_codec import encode_spec
from tests.engine.kernels import Add

SOURCE = '// a comment\n\nextern "C" __global__ void k() {\n}\n'


@message(7)
class Mixed:
    small: kinds.u8
    ratio: kinds.f32
    large: kinds.i64


@message(8)
class Foreign:
    at: kinds.u32
    to: kinds.f64


@message(9)
class Bare:
    pass


def spec() -> KernelSpec:
    return KernelSpec(
        kernel_id="k",
        kernel_type="other",
        code=KernelCodeSource.from_cuda(SOURCE, "k", version_id="v 1"),
        messages=[Add, Mixed],
        grid=(2, 3, 1),
        block=(16, 2, 1),
        regions=[
            Region("zeros", dtype="int8", shape=(3,)),
            Region("counted", dtype="float32", shape=(2, 4)),
            Region("same", dtype="float64", shape=(2,)),
            Region("any", dtype="uint16", shape=(2, 2)),
        ],
        arguments={
            "step": np.float32(0.1),
            "count": np.int16(-3),
            "wide": np.uint64((1 << 63) + 1),
        },
        durability="async",
        replay="checkpoint",
        release="at_once",
        ring_slots=64,
        reply_slots=128,
        slot_bytes=256,
        max_replies=3,
        bulk_bytes=1 << 19,
        max_reply_data_bytes=64,
        reply_bulk_bytes=1 << 21,
        dynamic_shared_bytes=128,
        track_dirty=True,
        checkpoint_every_messages=5,
        checkpoint_every_s=0.5,
        routes=[Route("next"), Route("log", messages=[Mixed, Foreign, Bare])],
    )


def test_a_kernel_is_read_back_as_it_was() -> None:
    """Options, source and initial data; nothing is a gap."""
    arrays = {
        "zeros": np.zeros(3, "int8"),
        "counted": np.arange(8, dtype="float32").reshape(2, 4),
        "same": np.full(2, 0.1),
        "any": np.array([[1, 60000], [3, 4]], "uint16"),
    }
    assert [name for name, usual in PLAIN.items() if getattr(spec(), name) == usual] == []
    gaps: list[str] = []
    line = kernel_line(spec(), {name: one.tobytes() for name, one in arrays.items()}, gaps)
    given = {word.key: word.text for word in words_of(line, 1, "x.txt") if word.key}
    version = given.pop("version")
    source = "".join(f"{one}\n" for one in source_lines(spec().code, gaps))
    again = spec_of("k", source, given, version)
    assert encode_spec(again) == encode_spec(spec())
    assert gaps == []
    for region in again.regions:
        initial = region.initial if region.initial is not None else np.zeros(3, "int8")
        assert isinstance(initial, np.ndarray)
        assert initial.tobytes() == arrays[region.name].tobytes()


FIELDS = kinds.layout_of(Mixed)


@pytest.mark.parametrize(
    "message",
    [
        Mixed(0, 0.0, 0), Mixed(1, 0.1, -2), Mixed(255, -0.0, 1 << 62), Mixed(0, -0.0, 0),
        Mixed(0, float("inf"), -(1 << 63)), Mixed(0, float("nan"), 0),
    ],
)  # fmt: skip
def test_a_payload_is_said_by_its_fields(message: Mixed) -> None:
    gaps: list[str] = []
    layouts = messages_of(layout_text(FIELDS))
    _, payload = kinds.pack(message)
    said = words_of(message_words(layouts, 7, payload, gaps), 1, "x.txt")
    assert (said[0].text, gaps) == ("Mixed", [])
    assert payload_of(layouts[0], {word.key: word.text for word in said[1:]}) == payload


@pytest.mark.parametrize(
    "payload",
    [b"", bytes(24), b"\x05\xff" + bytes(14), bytes(4) + b"\x01\x00\xc0\x7f" + bytes(8)],
    ids=["none", "more", "padding", "a number that is none"],
)
def test_what_fields_do_not_say_is_said_in_bytes(payload: bytes) -> None:
    """Bytes between fields, and lengths that no message has, are not lost."""
    gaps: list[str] = []
    said = words_of(message_words((FIELDS,), 7, payload, gaps), 1, "x.txt")
    values = {word.key: word.text for word in said if word.key}
    assert said[0].text == "7"
    assert bytes.fromhex(values.get("bytes", "")) == payload
    assert len(gaps) == 1


def test_what_a_reload_changes_is_read_back() -> None:
    """Only what differs is said; regions that come anew begin with zeros, which is told."""
    new = attrs.evolve(
        spec(),
        messages=[Mixed],
        regions=[Region("zeros", dtype="int8", shape=(3,)), Region("b", dtype="int32", shape=(2,))],
        arguments={"step": np.float32(0.25)},
        routes=[Route("log", messages=[Bare, Mixed])],
    )
    gaps: list[str] = []
    assert changed_words(spec(), spec(), gaps) == ""
    said = changed_words(spec(), new, gaps)
    given = {word.key: word.text for word in words_of(said, 1, "x.txt")}
    changed = attrs.evolve(spec(), **changes_of(given, spec().messages))
    assert encode_spec(changed) == encode_spec(new)
    assert gaps == ["regions that this code adds begin with zeros here"]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int64"])
def test_arrays_that_a_line_can_say_are_read_back(dtype: str) -> None:
    """Zeros, numbers, counting and few bytes; more bytes than a line holds are a gap."""
    for array in (np.zeros(5, dtype), np.full(5, 3, dtype), np.arange(100).astype(dtype)):
        value = array_value(array.tobytes(), dtype)
        assert value is not None
        text = f"{dtype}[{len(array)}]" + (f"={value}" if value else "")
        assert array_of(text).tobytes() == array.tobytes()
    few = np.array([9, 1, 1], dtype)
    assert array_of(f"{dtype}[3]={array_value(few.tobytes(), dtype)}").tolist() == few.tolist()
    assert array_value(np.tile(few, 100).tobytes(), dtype) is None
