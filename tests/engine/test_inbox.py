"""The inbox: messages leave in order, once, and come back in the same order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringflow.device.posting import Posting
from ringflow.engine.inbox import Inbox


def _posting(sequence: int) -> Posting:
    return Posting(sequence=sequence, type=1, payload=sequence.to_bytes(8, "little"))


def _filled(first: int, last: int, *, posted_through: int) -> Inbox:
    inbox = Inbox(posted_through=posted_through)
    for sequence in range(first, last + 1):
        inbox.push(_posting(sequence))
    return inbox


def _sequences(messages: list[Posting]) -> list[int]:
    return [message.sequence for message in messages]


def test_an_empty_inbox_has_nothing_to_post() -> None:
    """Its last sequence is where the device is."""
    inbox = Inbox(posted_through=7)
    assert (len(inbox), inbox.last_sequence, inbox.parked_count) == (0, 7, 0)
    assert inbox.next_parked(10, through=100) == []


def test_posted_messages_are_kept_until_they_are_discarded() -> None:
    """What was posted may be needed again; what is done is not."""
    inbox = _filled(1, 5, posted_through=0)
    inbox.mark_posted(3)
    assert (len(inbox), inbox.parked_count) == (5, 2)
    inbox.discard_through(2)
    assert (len(inbox), inbox.parked_count) == (3, 2)
    assert _sequences(inbox.next_parked(10, through=100)) == [4, 5]


def test_rewind_parks_what_was_not_applied_in_the_same_order() -> None:
    """A quiesce after message 2 of 4 posted ones gives 3 and 4 back, before 5."""
    inbox = _filled(1, 5, posted_through=0)
    inbox.mark_posted(4)
    assert inbox.rewind(2) == 2
    assert _sequences(inbox.next_parked(10, through=100)) == [3, 4, 5]
    assert inbox.rewind(2) == 0


def test_no_message_goes_past_the_sequence_that_a_reload_waits_for() -> None:
    """``through`` bounds what the old code gets, however much room there is."""
    inbox = _filled(1, 9, posted_through=0)
    assert _sequences(inbox.next_parked(100, through=4)) == [1, 2, 3, 4]
    inbox.mark_posted(4)
    assert inbox.next_parked(100, through=4) == []
    assert inbox.next_parked(100, through=3) == []
    assert inbox.next_parked(0, through=9) == []


def test_what_comes_out_of_order_is_refused() -> None:
    """Sequences ascend: an older one would never be delivered."""
    inbox = _filled(1, 2, posted_through=0)
    for sequence in (1, 2):
        with pytest.raises(AssertionError):
            inbox.push(_posting(sequence))


def test_a_skipped_message_leaves_a_gap_that_nothing_waits_for() -> None:
    """What is on the device already stays; the rest is numbered as it was."""
    inbox = _filled(1, 8, posted_through=0)
    inbox.mark_posted(2)
    inbox.skip(((2, 4), (8, 8)))
    assert _sequences(inbox.next_parked(2, through=100)) == [5, 6]
    inbox.mark_posted(2)
    assert (inbox.posted_through, inbox.parked_count) == (6, 1)
    assert inbox.rewind(4) == 2
    assert _sequences(inbox.next_parked(9, through=6)) == [5, 6]
    inbox.push(_posting(10))
    assert _sequences(inbox.next_parked(9, through=100)) == [5, 6, 7, 10]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_refill_joins_history_and_new_messages_once_each(
    base: int, history_last: int, kept_first: int, kept_last: int
) -> None:
    """The journal's history overlaps what came meanwhile: nothing is lost or doubled."""
    history_last = max(history_last, base)
    kept_first = max(1, min(kept_first, history_last + 1))  # the two meet or overlap
    kept_last = max(kept_last, kept_first)
    inbox = _filled(kept_first, kept_last, posted_through=kept_last)
    inbox.refill((_posting(n) for n in range(1, history_last + 1)), posted_through=base)
    expected = list(range(base + 1, max(history_last, kept_last) + 1))
    assert _sequences(inbox.next_parked(1000, through=1000)) == expected
    assert inbox.parked_count == len(expected)


class InboxAgainstModel(RuleBasedStateMachine):
    """The inbox against two numbers: the device gets 1, 2, 3, ... whatever happens between.

    The model keeps the newest accepted sequence, the newest posted and the newest discarded.
    """

    @initialize(start=st.integers(0, 3))
    def start(self, start: int) -> None:
        self.inbox = Inbox(posted_through=start)
        self.accepted = self.posted = self.discarded = start

    @rule(count=st.integers(1, 5))
    def push(self, count: int) -> None:
        for _ in range(count):
            self.accepted += 1
            self.inbox.push(_posting(self.accepted))

    @rule(room=st.integers(0, 6), ahead=st.integers(0, 6))
    def post(self, room: int, ahead: int) -> None:
        through = self.posted + ahead
        batch = self.inbox.next_parked(room, through=through)
        last = min(self.posted + room, through, self.accepted)
        assert _sequences(batch) == list(range(self.posted + 1, last + 1))
        assert batch == [_posting(n) for n in _sequences(batch)]
        self.inbox.mark_posted(len(batch))
        self.posted = max(self.posted, last)

    @precondition(lambda self: self.posted > self.discarded)
    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        applied = data.draw(st.integers(self.discarded, self.posted))
        assert self.inbox.rewind(applied) == self.posted - applied
        self.posted = applied

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        self.discarded = data.draw(st.integers(self.discarded, self.posted))
        self.inbox.discard_through(self.discarded)

    @invariant()
    def agrees(self) -> None:
        assert len(self.inbox) == self.accepted - self.discarded
        assert self.inbox.parked_count == self.accepted - self.posted
        if self.accepted > self.discarded:
            assert self.inbox.last_sequence == self.accepted


TestInboxAgainstModel = InboxAgainstModel.TestCase
