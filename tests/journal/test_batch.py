"""Lines that are put together by hand: byte for byte those of the format."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringflow.clock import ManualClock
from ringflow.events.codec import EventCodec
from ringflow.journal.api import Append
from ringflow.journal.batch import Sealer
from ringflow.journal.lanes import Pending
from ringflow.journal.record import RawRecord, parse_line
from tests.journal.sample import TYPES, note, record_line

CODEC = EventCodec(TYPES)


def pending(stream: str, version: int, texts: list[str]) -> Pending:
    events = [one for text in texts for one in note(text)]
    return Pending(Append(stream, version), events, CODEC.encode(events))


batches = st.lists(
    st.builds(pending, st.text(), st.integers(1, 2**53), st.lists(st.text(), max_size=3)),
    min_size=1,
    max_size=4,
)
times = st.integers(0, 2**63) | st.sampled_from([2**53, 2**53 + 1])


@given(st.lists(batches, max_size=3), times, st.integers(1, 2**40), st.integers(0, 2**40))
def test_a_batch_is_sealed_as_the_format_says(
    given_batches: list[list[Pending]], at_ns: int, epoch: int, sequence: int
) -> None:
    """Each line is canonical JSON of the record, with the hash of the line before and its own."""
    head = "0" * 64
    sealer = Sealer(ManualClock(now_ns=at_ns), epoch=epoch, sequence=sequence, at_ns=0, head=head)
    for batch in given_batches:
        durable = sequence
        sealed = sealer.seal(batch)
        for one, line in zip(batch, sealed.lines, strict=True):
            sequence += 1
            assert line == record_line(
                sequence=sequence,
                at_ns=at_ns,
                epoch=epoch,
                stream=one.append.stream,
                version=one.append.version,
                durable=durable,
                events=[CODEC.to_plain(event) for event in one.events],
                previous_hash=head,
            )
            read = parse_line(line[:-1])
            assert isinstance(read, RawRecord)
            head = read.hash
        assert sealed.records() == [_read(line) for line in sealed.lines]
        assert sealed.size_bytes == sum(map(len, sealed.lines))
        assert (sealed.durable, sealed.last_sequence) == (durable, sequence)
    assert (sealer.sequence, sealer.head) == (sequence, head)


def _read(line: bytes) -> object:
    record = parse_line(line[:-1])
    assert isinstance(record, RawRecord)
    return record.decoded(CODEC)
