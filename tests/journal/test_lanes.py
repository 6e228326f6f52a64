"""The queue before the writer, against the plainest queue that keeps its rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringflow.journal.api import Append, Commit
from ringflow.journal.lanes import Lanes, Pending


class PlainLanes:
    """Two lists, walked from the start each time."""

    def __init__(self) -> None:
        self.control: list[Pending] = []
        self.messages: list[Pending] = []

    def push(self, pending: Pending, *, control: bool) -> None:
        if not control:
            self.messages.append(pending)
            return
        stream = pending.append.stream
        self.control += [one for one in self.messages if one.append.stream == stream]
        self.messages = [one for one in self.messages if one.append.stream != stream]
        self.control.append(pending)

    def take(self, size_bytes: int) -> list[Pending]:
        batch: list[Pending] = []
        while (lane := self.control or self.messages) and sum(map(_size, batch)) < size_bytes:
            batch.append(lane.pop(0))
        return batch


def _size(pending: Pending) -> int:
    return len(pending.data)


pushes = st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(1, 3))
takes = st.integers(1, 9)


@given(st.lists(pushes | takes))
def test_batches_are_those_of_the_plainest_queue(steps: list[tuple[bool, str, int] | int]) -> None:
    """Control first, each stream in its order, about as much as was asked for; sizes add up."""
    lanes, plain = Lanes(), PlainLanes()
    earlier: set[Commit | None] = set()
    for step in [*steps, 10**6]:
        if isinstance(step, int):
            batch = lanes.take(step)
            assert batch == plain.take(step)
            commits = {one.append.commit for one in batch}
            assert len(commits) == bool(batch)
            assert not commits & earlier, "a batch has a commit of its own"
            earlier |= commits
        else:
            control, stream, size_bytes = step
            pending = Pending(Append(stream, 1), (), bytes(size_bytes))
            lanes.push(pending, control=control)
            plain.push(pending, control=control)
        assert lanes.control_bytes == sum(map(_size, plain.control))
        assert lanes.message_bytes == sum(map(_size, plain.messages))
        assert len(lanes) == len(plain.control) + len(plain.messages)
    assert len(lanes) == 0
