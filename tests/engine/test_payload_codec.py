"""Payloads kept out of the journal: verified without a key, replayed only with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

import ringflow
from ringflow.journal.reader import read_records, verify
from tests.engine.kernels import Add, adder, expected_state
from tests.engine.story import send_all, state_of

pytestmark = pytest.mark.anyio
VALUES = [1000 + value for value in range(20)]


def turned(kernel_id: str, payload: bytes) -> bytes:
    """Stand for a cipher: its own inverse, different for each kernel."""
    return bytes(byte ^ 0x5A ^ len(kernel_id) for byte in payload)


def cipher(name: str = "key-7") -> ringflow.PayloadCodec:
    return ringflow.PayloadCodec(name=name, encode=turned, decode=turned)


REDACTED = ringflow.PayloadCodec(name="redacted", encode=lambda kernel_id, payload: b"")


async def crashed(folder: Path, codec: ringflow.PayloadCodec | None) -> Path:
    """Return the folder of an engine as a crash leaves it, with messages after its checkpoint."""
    async with ringflow.open_engine(folder, payload_codec=codec) as engine:
        kernel = await engine.launch(adder())
        await send_all(kernel, VALUES)
        copy = folder.with_name(f"{folder.name}-copy")
        shutil.copytree(folder, copy)
    return copy


def payloads_in(folder: Path) -> list[str]:
    return [
        payload
        for record in read_records(folder)
        for event in record.events
        for payload in event.get("payloads", [])
    ]


async def test_an_encrypted_journal_is_replayed_with_its_key(folder: Path) -> None:
    """Nothing of a payload is on disk; verify needs no key; a restart with it loses nothing."""
    copy = await crashed(folder, cipher())
    plain = await crashed(folder.with_name("plain"), None)
    clear, kept = set(payloads_in(plain)), set(payloads_in(copy))
    assert len(kept) == len(clear) == len(VALUES)
    assert not kept & clear
    assert verify(copy).records > 0
    names = {
        event.get("codec")
        for record in read_records(copy)
        for event in record.events
        if "payloads" in event
    }
    assert names == {"key-7"}
    async with ringflow.open_engine(copy, payload_codec=cipher()) as engine:
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state(VALUES)


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        (None, "no payload codec is given"),
        (cipher("key-8"), "the codec that is given is 'key-8'"),
        (ringflow.PayloadCodec(name="key-7", encode=turned), "that codec has no decode"),
        (
            ringflow.PayloadCodec(name="key-7", encode=turned, decode=lambda *_: 1 / 0),  # type: ignore[arg-type]
            "ZeroDivisionError",
        ),
    ],
)
async def test_without_the_key_the_kernel_waits_for_it(
    folder: Path, codec: ringflow.PayloadCodec | None, words: str
) -> None:
    """The folder opens, the kernel does not start, the reason is told; the key mends it."""
    copy = await crashed(folder, cipher())
    async with ringflow.open_engine(copy, payload_codec=codec) as engine:
        with pytest.raises(ringflow.KernelStateError, match="payload codec 'key-7'") as caught:
            await engine.kernel("adder").send(Add(1))
        assert words in str(caught.value)
    async with ringflow.open_engine(copy, payload_codec=cipher()) as engine:
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state(VALUES)


async def test_redacted_payloads_are_gone_but_a_checkpoint_covers_them(folder: Path) -> None:
    """An orderly close needs no replay; every line still verifies."""
    async with ringflow.open_engine(folder, payload_codec=REDACTED) as engine:
        kernel = await engine.launch(adder())
        await send_all(kernel, VALUES)
        await state_of(kernel)  # all are applied: the last recovery point covers them
    assert set(payloads_in(folder)) == {""}
    async with ringflow.open_engine(folder, payload_codec=REDACTED) as engine:
        assert (await state_of(engine.kernel("adder")))[:3] == expected_state(VALUES)
    assert verify(folder).closed_cleanly


async def test_a_codec_that_fails_refuses_the_message(folder: Path) -> None:
    """Nothing was accepted, nothing was written, and the kernel works on."""

    def only_empty(kernel_id: str, payload: bytes) -> bytes:
        assert not payload
        return payload

    failing = ringflow.PayloadCodec(name="bad", encode=only_empty)
    async with ringflow.open_engine(folder, payload_codec=failing) as engine:
        kernel = await engine.launch(adder())
        with pytest.raises(ringflow.UsageError, match="'bad' can't encode"):
            await kernel.send(Add(1))
        assert not payloads_in(folder)
        assert (await state_of(kernel))[:3] == expected_state([])


def test_the_codec_is_named_in_the_line_beside_the_type() -> None:
    """As the page of the format says; an event without payloads never has one."""
    from ringflow.errors import EventFormatError
    from ringflow.events.lifecycle import KernelLaunched
    from ringflow.events.registry import default_codec

    codec = default_codec(cipher())
    event = KernelLaunched(kernel_id="k", device="host:0")
    (plain,) = orjson.loads(codec.encode([event]))
    assert "codec" not in plain
    with pytest.raises(EventFormatError, match="codec"):
        codec.from_plain({**plain, "codec": "key-7"})
