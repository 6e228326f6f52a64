"""The ABI's tables, and that everything generated from them is current."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringflow.device import abi
from ringflow.device.layout import (
    GENERATED_BEGIN,
    GENERATED_END,
    Layout,
    replace_generated,
    u32,
    u64,
)
from ringflow.device.native import build


def test_host_and_kernel_write_different_lines() -> None:
    """No 128-byte line of the control block has words of both sides."""
    names = [word.name for word in abi.CONTROL.words]
    first = names.index("started")
    assert all(word.offset_bytes < 128 for word in abi.CONTROL.words[:first])
    assert all(word.offset_bytes >= 128 for word in abi.CONTROL.words[first:])
    assert abi.CONTROL.size_bytes == 256


def test_offsets_of_version_4() -> None:
    """Version 4's control block and slots lie where they lay; else the version must change."""
    assert abi.ABI_VERSION == 4
    places = {word.name: (word.offset_bytes, word.size_bytes) for word in abi.CONTROL.words}
    assert places == {
        "doorbell": (0, 8), "reply_tail": (8, 8), "ping": (16, 8), "dirty_epoch": (24, 4),
        "emissions_closed": (28, 4), "magic": (32, 4), "version": (36, 4), "work": (40, 8),
        "messages": (48, 8), "replies": (56, 8), "message_slots": (64, 4),
        "reply_slots": (68, 4), "slot_bytes": (72, 4), "max_replies": (76, 4),
        "base_sequence": (80, 8), "epoch": (88, 8), "emit_slots": (96, 4),
        "withdrawn": (100, 4),
        "started": (128, 8), "done_sequence": (136, 8), "done_count": (144, 8),
        "consumed": (152, 8), "reply_head": (160, 8), "state": (168, 8), "echo": (176, 8),
        "steps": (184, 8), "taken_sequence": (192, 8), "fault": (200, 4),
        "dirty_swapped": (204, 4), "busy_ns": (208, 8),
    }  # fmt: skip
    assert [word.offset_bytes for word in abi.MESSAGE_SLOT.words] == [0, 8, 12, 16, 24, 28]
    assert [word.offset_bytes for word in abi.REPLY_SLOT.words] == [0, 8, 12, 16, 20, 24, 28]


@pytest.mark.parametrize("path", sorted(build.SECTIONS))
def test_generated_sections_are_current(path: str) -> None:
    """What a source repeats of the tables is what the tables say."""
    (product,) = [product for product in build.section_products() if product.path == path]
    assert product.current, f"{path} is stale: python -m ringflow.device.native.build"


def test_shipped_ptx_is_what_clang_makes_of_the_sources() -> None:
    """Nobody edits the PTX, and nobody forgets to rebuild it."""
    for product in build.code_products():
        assert product.current, f"{product.path} is stale: python -m ringflow.device.native.build"


def test_build_check_names_what_is_stale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --check nothing is written, and a difference is an error."""
    assert build.main(["--check"]) == 0
    monkeypatch.setitem(build.SECTIONS, "include/ringflow.cuh", lambda: "// other")
    assert build.main(["--check"]) == 1
    assert "ringflow.cuh" in capsys.readouterr().out


def test_overlapping_or_unaligned_words_are_no_layout() -> None:
    """A layout that C could not have is refused when it is written down."""
    for words, size_bytes in (
        ((u64("a", 0, ""), u32("b", 4, "")), 16),
        ((u64("a", 4, ""),), 16),
        ((u64("a", 8, ""),), 12),
    ):
        with pytest.raises(AssertionError):
            Layout("wrong", size_bytes, words)


def test_replacing_needs_both_markers() -> None:
    """A lost marker line is an error, not a silent no-op."""
    text = f"a\n{GENERATED_BEGIN}\nold\n{GENERATED_END}\nb\n"
    assert replace_generated(text, "new") == text.replace("old", "new")
    for broken in (text.replace(GENERATED_END, ""), text.replace(GENERATED_BEGIN, "")):
        with pytest.raises(ValueError, match="marker"):
            replace_generated(broken, "new")


@given(st.integers(0, 1 << 40), st.integers(1, abi.GENERATION_MASK), st.sampled_from(abi.Command))
def test_doorbell_keeps_its_three_parts(posted: int, generation: int, command: int) -> None:
    """Messages count modulo 2^32; generation and command are beside them."""
    word = abi.doorbell(posted, generation, command)
    assert (word & 0xFFFFFFFF, word >> 32 & abi.GENERATION_MASK, word >> 56) == (
        posted & 0xFFFFFFFF,
        generation,
        command,
    )


@given(
    st.integers(1, 16).map(lambda n: 1 << n),
    st.integers(1, 16).map(lambda n: 1 << n),
    st.integers(0, 64),
    st.data(),
)
def test_replies_of_all_credited_messages_fit(
    ring: int, replies: int, shares: int, data: st.DataObject
) -> None:
    """Whatever the sizes: all credited replies, their arrays and all emitted outputs fit."""
    most = data.draw(st.integers(0, replies))
    credited = abi.credits(ring, replies, most, shares)
    emitted = abi.emit_slots(ring, replies, most, shares)
    assert 1 <= credited <= (min(ring, shares) if shares else ring)
    assert emitted >= 0
    assert credited * most + emitted == replies
