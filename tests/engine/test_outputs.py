"""Outputs: each is taken once, in order; what is held is released once or never seen."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringflow.device.abi import OutputFlag
from ringflow.device.pump import Output
from ringflow.engine.outputs import (
    CallWaiter,
    ConsumerQueue,
    Outputs,
    decode_outbox,
    encode_outbox,
    id_of,
)
from ringflow.errors import CorruptError
from ringflow.routing import INDEX_MAX, OutputId


def _output(sequence: int, index: int = 0, *, flags: int = 0) -> Output:
    payload = f"{sequence}.{index}".encode()
    return Output(sequence=sequence, index=index, type=1, flags=flags, payload=payload)


def _read(queue: ConsumerQueue) -> list[OutputId]:
    """Return what a reader gets now."""
    return [id_of(output) for output in iter(queue.take, None)]


def _with_consumer(*, bound: int = 100) -> tuple[Outputs, ConsumerQueue]:
    outputs = Outputs(bound=bound)
    return outputs, outputs.add_consumer("reader", (0, 0))


def test_an_output_that_was_taken_is_dropped_when_it_comes_again() -> None:
    """A replay of messages makes the same outputs; nobody sees them twice."""
    outputs, queue = _with_consumer()
    outputs.take([_output(1), _output(2, 0), _output(2, 1)])
    outputs.take([_output(1), _output(2, 0), _output(2, 1), _output(3)])
    assert _read(queue) == [(1, 0), (2, 0), (2, 1), (3, 0)]


def test_held_outputs_wait_and_are_released_in_order() -> None:
    """On probation nothing after the swap is seen; what came before it is."""
    outputs, queue = _with_consumer()
    outputs.hold_after((2, INDEX_MAX))
    outputs.take([_output(1), _output(2), _output(3), _output(4)])
    assert (_read(queue), outputs.held_count) == ([(1, 0), (2, 0)], 2)
    outputs.release()
    outputs.take([_output(5)])
    assert (_read(queue), outputs.held_count) == ([(3, 0), (4, 0), (5, 0)], 0)


def test_forgotten_outputs_are_made_again_by_the_old_code() -> None:
    """After a rollback the same identities come once, from the code that stays."""
    outputs, queue = _with_consumer()
    outputs.hold_after((1, INDEX_MAX))
    bad = Output(sequence=2, index=0, type=1, flags=0, payload=b"bad")
    outputs.take([_output(1), bad])
    outputs.forget_after((1, INDEX_MAX))
    outputs.release()
    outputs.take([_output(1), _output(2)])
    read = list(iter(queue.take, None))
    assert read == [_output(1), _output(2)]


def test_a_call_gets_the_first_reply_to_its_message_and_no_emission() -> None:
    """An unsolicited output carries a sequence too, and answers nothing."""
    outputs = Outputs(bound=10)
    waiter = outputs.calls.setdefault(2, CallWaiter(0))
    outputs.take([_output(1), _output(2, 0, flags=OutputFlag.EMITTED)])
    assert not waiter.done.is_set()
    outputs.take([_output(2, 1), _output(2, 2)])
    assert waiter.output == _output(2, 1)
    assert not outputs.calls


class Counted(int):
    """A sequence that counts how often one was compared."""

    comparisons = 0

    def __le__(self, other: int) -> bool:
        Counted.comparisons += 1
        return int(self) <= int(other)


def test_calls_that_wait_on_cost_those_that_are_settled_nothing() -> None:
    """Each report settles calls: with all looked at, many that wait took the square of the time."""
    outputs, count = Outputs(bound=16), 1000
    waiters = [outputs.calls.setdefault(Counted(number), CallWaiter(0)) for number in range(count)]
    Counted.comparisons = 0
    for number in range(count):
        outputs.settle_calls(number)
        done = [one.done.is_set() for one in waiters[number : number + 2]]
        assert done == [True, False][: len(done)]
    assert Counted.comparisons < 2 * count
    assert not outputs.calls


def test_a_call_on_probation_is_answered_by_the_code_that_stays() -> None:
    """A held reply answers nobody until it is released."""
    outputs = Outputs(bound=10)
    waiter = outputs.calls.setdefault(1, CallWaiter(0))
    outputs.hold_after((0, INDEX_MAX))
    outputs.take([_output(1)])
    assert not waiter.done.is_set()
    outputs.release()
    assert waiter.output == _output(1)


@pytest.mark.parametrize("where", ["waiting", "held"])
def test_the_bound_holds_for_what_waits_and_for_what_is_held(where: str) -> None:
    """Full means that new messages wait; reading alone does not help, acknowledging does."""
    outputs, queue = _with_consumer(bound=2)
    if where == "held":
        outputs.hold_after((0, INDEX_MAX))
    outputs.take([_output(1)])
    assert not outputs.is_full
    outputs.take([_output(2)])
    assert outputs.is_full
    outputs.release()
    _read(queue)
    assert outputs.is_full
    assert queue.acknowledge((1, 0))
    assert not outputs.is_full


def test_an_acknowledgement_never_goes_back() -> None:
    """An older one that arrives late changes nothing."""
    outputs, queue = _with_consumer()
    outputs.take([_output(1), _output(2), _output(3)])
    assert queue.acknowledge((2, 0))
    assert not queue.acknowledge((1, 0))
    assert not queue.acknowledge((2, 0))
    assert (queue.position, _read(queue)) == ((2, 0), [(3, 0)])


def test_consumers_have_positions_of_their_own() -> None:
    """One that acknowledged gets nothing again, the other still gets all."""
    outputs, first = _with_consumer()
    second = outputs.add_consumer("second", (1, 0))
    outputs.take([_output(1), _output(2)])
    assert (_read(first), _read(second)) == ([(1, 0), (2, 0)], [(2, 0)])
    first.acknowledge((2, 0))
    assert [id_of(output) for output in outputs.unacknowledged(9)] == [(2, 0)]


def test_the_outbox_holds_what_a_checkpoint_must_keep() -> None:
    """Waiting and held outputs up to the checkpoint's sequence, in order, each once."""
    outputs, _ = _with_consumer()
    outputs.add_consumer("second", (0, 0))
    outputs.hold_after((2, INDEX_MAX))
    outputs.take([_output(1), _output(2), _output(3), _output(4)])
    assert [o.sequence for o in outputs.unacknowledged(3)] == [1, 2, 3]
    assert Outputs(bound=1).unacknowledged(3) == ()


def test_after_a_restart_the_outbox_comes_first_and_the_replay_adds_the_rest() -> None:
    """Consumers go on where they acknowledged; what the outbox holds is not made again."""
    before, queue = _with_consumer()
    before.take([_output(1), _output(2), _output(3)])
    queue.acknowledge((1, 0))
    saved = decode_outbox(memoryview(encode_outbox(before.unacknowledged(2))))
    after = Outputs(bound=100)
    after.recover(saved, seen=(2, 2**32 - 1), positions={"reader": queue.position})
    after.take([_output(2), _output(3)])
    assert list(iter(after.consumers["reader"].take, None)) == [_output(2), _output(3)]


values = st.builds(
    Output,
    sequence=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**32 - 1),
    type=st.integers(0, 2**32 - 1),
    flags=st.just(0),
    payload=st.binary(max_size=40),
)


@given(st.lists(values, max_size=5))
def test_an_outbox_comes_back_byte_for_byte(outputs: list[Output]) -> None:
    """It is part of a checkpoint file: what was written is read."""
    assert decode_outbox(memoryview(encode_outbox(outputs))) == tuple(outputs)


def test_an_outbox_that_was_cut_is_refused() -> None:
    """Every cut but those between two outputs is damage."""
    data = encode_outbox([_output(1), _output(2)])
    for end in set(range(1, len(data))) - {len(data) // 2}:
        with pytest.raises(CorruptError):
            decode_outbox(memoryview(data)[:end])


@pytest.mark.anyio
async def test_closing_wakes_readers_and_callers() -> None:
    """Nobody waits for a kernel that is gone."""
    outputs, queue = _with_consumer()
    waiter = outputs.calls.setdefault(1, CallWaiter(0))
    changed = queue.changed
    outputs.close()
    with anyio.fail_after(20):
        await changed.wait()
        await waiter.done.wait()
    assert waiter.output is None


class OutputsAgainstModel(RuleBasedStateMachine):
    """Outputs against plain lists of identities.

    Message n makes ``n % 3`` outputs. The model keeps what was taken, how much of that is
    released, and what the one consumer read since its last acknowledgement.
    """

    @initialize(bound=st.integers(1, 8))
    def start(self, bound: int) -> None:
        self.outputs = Outputs(bound=bound)
        self.queue = self.outputs.add_consumer("reader", (0, 0))
        self.taken: list[OutputId] = []
        self.released = self.acknowledged = self.read = self.done = 0
        self.held_after: int | None = None

    @rule(count=st.integers(1, 4), again=st.integers(0, 3))
    def work(self, count: int, again: int) -> None:
        """The kernel finishes messages; a relaunch repeats the last few."""
        first = max(0, self.done - again)
        made = [(n, i) for n in range(first + 1, self.done + count + 1) for i in range(n % 3)]
        self.outputs.take(_output(*identity) for identity in made)
        self.taken += [identity for identity in made if identity[0] > self.done]
        self.done += count
        if self.held_after is None:
            self.released = len(self.taken)

    @precondition(lambda self: self.held_after is None)
    @rule()
    def hold(self) -> None:
        self.outputs.hold_after((self.done, INDEX_MAX))
        self.held_after = self.done

    @precondition(lambda self: self.held_after is not None)
    @rule()
    def promote(self) -> None:
        self.outputs.release()
        self.released, self.held_after = len(self.taken), None

    @precondition(lambda self: self.held_after is not None)
    @rule()
    def roll_back(self) -> None:
        assert self.held_after is not None
        self.outputs.forget_after((self.held_after, INDEX_MAX))
        self.outputs.release()
        self.done, self.held_after = self.held_after, None
        del self.taken[self.released :]

    @rule()
    def read_all(self) -> None:
        assert _read(self.queue) == self.taken[self.read : self.released]
        self.read = self.released

    @precondition(lambda self: self.read > self.acknowledged)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        self.acknowledged = data.draw(st.integers(self.acknowledged + 1, self.read))
        assert self.queue.acknowledge(self.taken[self.acknowledged - 1])

    @rule()
    def read_again(self) -> None:
        """A new reader of the same name starts at the position."""
        self.queue.reread()
        self.read = self.acknowledged

    @rule(through=st.integers(0, 30))
    def checkpoint(self, through: int) -> None:
        kept = [id_of(output) for output in self.outputs.unacknowledged(through)]
        assert kept == [one for one in self.taken[self.acknowledged :] if one[0] <= through]

    @invariant()
    def agrees(self) -> None:
        held = len(self.taken) - self.released
        waiting = self.released - self.acknowledged
        assert self.outputs.held_count == held
        assert self.outputs.is_full is (max(held, waiting) >= self.outputs.bound)


TestOutputsAgainstModel = OutputsAgainstModel.TestCase
