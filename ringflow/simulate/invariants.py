"""What must hold in a simulated world whenever it is at rest, whatever was done to it.

- Each check yields the problems that it finds, as sentences; the first one is raised.
- Kernels of ``fold.cu`` are held against their reference in Python; of others, what the journal and
  the witness say must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import dropwhile
from typing import Final, final

import attrs

from ringflow.engine.engine import Engine
from ringflow.engine.replay import replay_records
from ringflow.engine.status import KernelStatus
from ringflow.errors import InvariantError, RingflowError
from ringflow.events.registry import default_codec
from ringflow.journal.reader import read_records
from ringflow.journal.record import Record
from ringflow.simulate.reference import PROBE, Course, Histories, History, Words
from ringflow.simulate.witness import OutputId, Reading, Told, Witness
from ringflow.simulate.world import ROOT, World

ENDED: Final = ("completed", "saved", "rolled_back", "cancelled", "failed")
AT_REST: Final = ("running", "halted", "stopped", "failed")
_ANSWER_S: Final = 300.0


@final
@attrs.frozen
class Look:
    """A kernel of ``fold.cu`` after everything that was sent: its state, and who says so."""

    applied: int
    words: Words
    probe: int


@final
@attrs.frozen
class Evidence:
    """All that is known of a world at rest.

    Attributes:
        instances: how often each kernel's control block is in the devices' memory.
        looks: of running kernels that have a reference.
    """

    engine: Engine
    kernels: tuple[KernelStatus, ...]
    instances: Mapping[str, int]
    records: tuple[Record, ...]
    histories: Histories
    looks: Mapping[str, Look]
    witness: Witness

    def known(self) -> Iterator[tuple[str, Look, History, Course]]:
        """Yield each kernel with a reference whose messages the journal has."""
        for kernel_id, look in self.looks.items():
            history = self.histories.of(kernel_id)
            if self.engine.spec(kernel_id).durability != "volatile" and history.is_known:
                yield kernel_id, look, history, history.course()


def check(world: World, witness: Witness) -> None:
    """Hold an open world at rest against what was told.

    Raises:
        InvariantError: the first thing that is not as it must be.
    """
    engine = world.engine
    statuses = engine.kernels()
    _raise_first("kernels_are_at_rest", _not_at_rest(statuses))
    looks = {
        status.kernel_id: _look(world, status.kernel_id)
        for status in statuses
        if status.state == "running" and _has_reference(engine, status.kernel_id)
    }
    for kernel_id, look in looks.items():
        if engine.spec(kernel_id).durability != "volatile":
            _drain(world, witness, kernel_id, look)
    world.settle()
    evidence = _evidence(world, witness, looks)
    for invariant in INVARIANTS:
        _raise_first(invariant.__name__, invariant(evidence))


def _not_at_rest(statuses: Iterable[KernelStatus]) -> Iterator[str]:
    for status in statuses:
        if status.state not in AT_REST:
            yield f"kernel {status.kernel_id} is {status.state} at rest"


def check_closed(world: World) -> None:
    """Close the world; raises ``InvariantError`` where device memory was not given back."""
    world.close()
    left = world.unreturned_bytes
    _raise_first(
        "memory_is_returned", [f"{name} lacks {size} bytes" for name, size in left.items()]
    )


def _raise_first(name: str, problems: Iterable[str]) -> None:
    for problem in problems:
        raise InvariantError(name, problem)


def _has_reference(engine: Engine, kernel_id: str) -> bool:
    return engine.spec(kernel_id).kernel_type == "fold"


def _look(world: World, kernel_id: str) -> Look:
    """Ask a kernel for an answer, then look at its state."""

    async def look(engine: Engine) -> Look:
        receipt = await engine.send(kernel_id, PROBE, b"")
        with world.clock.timeout(_ANSWER_S) as scope:
            await receipt.done()
        if scope.cancelled_caught:
            raise InvariantError("kernels_answer", f"{kernel_id} has no answer to a probe")
        async with engine.held(kernel_id) as state:
            digest, total, count, carried = (int(word) for word in state["state"].numpy())
            return Look(state.applied_sequence, (digest, total, count, carried), receipt.sequence)

    try:
        return world.run(look)
    except InvariantError:
        raise
    except RingflowError as error:
        problem = f"{kernel_id} can't be asked: {type(error).__name__}: {error}"
        raise InvariantError("kernels_answer", problem) from error


def _drain(world: World, witness: Witness, kernel_id: str, look: Look) -> None:
    """Let each consumer read what it lacks, up to the probe's reply."""

    async def drain(engine: Engine) -> None:
        if engine.spec(kernel_id).replay == "checkpoint":
            await engine.checkpoint(kernel_id)  # which releases what waits for it
        for consumer in witness.consumers(kernel_id):
            reading = witness.begins(kernel_id, consumer, engine.epoch)
            async with engine.replies(kernel_id, consumer) as queue:
                with world.clock.timeout(_ANSWER_S) as scope:
                    async for reply in queue:
                        witness.saw(reply)
                        reading.identities.append((reply.sequence, reply.index))
                        if reply.sequence >= look.probe:
                            witness.asks(reading, reply)
                            await reply.ack()
                            break
                if scope.cancelled_caught:
                    problem = f"{kernel_id}: {consumer} never got the reply to {look.probe}"
                    raise InvariantError("outputs_come_once_in_order", problem)

    world.run(drain)


def _evidence(world: World, witness: Witness, looks: Mapping[str, Look]) -> Evidence:
    codec = default_codec()
    records = tuple(record.decoded(codec) for record in read_records(ROOT, files=world.files))
    kernels = world.engine.kernels()
    labels = [label for device in world.opened_devices for label in device.labels]
    instances = {one.kernel_id: labels.count(f"{one.kernel_id}/control") for one in kernels}
    return Evidence(world.engine, kernels, instances, records, Histories(records), looks, witness)


def every_operation_ends(found: Evidence) -> Iterator[str]:
    """At rest none runs, by the engine's own account."""
    if count := found.engine.health()["running_operations"]:
        yield f"{count} operations still run"
    for one in found.engine.operations():
        if one.state not in ENDED:
            yield f"operation {one.operation_id} of {one.kernel_id} stays {one.state}"


def one_instance_lives(found: Evidence) -> Iterator[str]:
    """A running kernel is in memory once, one that has ended not at all."""
    for status in found.kernels:
        count, running = found.instances[status.kernel_id], status.state == "running"
        if count > 1 or (running and not count):
            yield f"{status.kernel_id}, {status.state}, is in memory {count} times"
        if count and status.state in ("stopped", "failed"):
            yield f"{status.kernel_id} has {status.state} and is in memory still"


def decisions_follow_from_their_inputs(found: Evidence) -> Iterator[str]:
    """Every record is what the machines make of the ones before it."""
    difference = replay_records(found.records).difference
    if difference is not None:
        yield f"record {difference.sequence}: {difference.reason}"
    for history in found.histories.kernels.values():
        yield from history.problems


def acknowledged_messages_are_there(found: Evidence) -> Iterator[str]:
    """What a sender was told of is in the journal, under its number and sequence."""
    for kernel_id, told in found.witness.told.items():
        history = found.histories.of(kernel_id)
        last: dict[str, int] = {}
        for one in told:
            if _is_void(one, history) or one.volatile:
                continue
            if one.sequence > history.last:
                yield f"message {one.sequence} of {kernel_id} was acknowledged and is gone"
                continue
            got = history.messages[one.sequence - 1]
            said = (one.type, one.payload, one.producer, one.number)
            if said != (got.type, got.payload, got.producer, got.number):
                yield f"message {one.sequence} of {kernel_id} was acknowledged as {said}, is {got}"
            last[one.producer] = one.number
        for producer, number in last.items():
            if producer and found.engine.last_number(kernel_id, producer) < number:
                yield f"{kernel_id} has forgotten number {number} of {producer}"


def _is_void(told: Told, history: History) -> bool:
    """Return whether the journal itself says that it was lost."""
    return any(told.epoch < epoch and told.sequence >= first for epoch, first in history.lost)


def numbers_are_accepted_once_in_order(found: Evidence) -> Iterator[str]:
    """Each producer's numbers ascend."""
    for history in found.histories.kernels.values():
        last: dict[str, int] = {}
        for sequence, message in enumerate(history.messages, 1):
            if message.producer and message.number <= last.get(message.producer, 0):
                yield f"message {sequence} of {history.kernel_id} repeats {message.number}"
            last[message.producer] = message.number


def states_are_the_fold_of_the_journal(found: Evidence) -> Iterator[str]:
    """Every kernel holds what its messages make, each applied once and in order."""
    for kernel_id, look, history, course in found.known():
        if look.applied != history.last:
            yield f"{kernel_id} has applied {look.applied} of {history.last} messages"
        elif look.words != (right := course.through(history.last)):
            yield f"{kernel_id} holds {look.words} after {history.last} messages, not {right}"


def outputs_are_equal_under_their_identity(found: Evidence) -> Iterator[str]:
    """What anybody got is what that message makes, now or before a rollback."""
    for kernel_id, _, history, course in found.known():
        courses = [course, *history.courses]
        for seen in found.witness.seen.get(kernel_id, ()):
            sequence, index = seen.identity
            if sequence > history.last:
                yield f"output {seen.identity} of {kernel_id} was seen, its message is gone"
            elif not any(
                index < len(outputs := one.outputs(sequence)) and outputs[index] == seen.payload
                for one in courses
            ):
                yield f"output {seen.identity} of {kernel_id} was {seen.payload.hex()}"


def outputs_come_once_in_order(found: Evidence) -> Iterator[str]:
    """Nothing is missed, and what was acknowledged durably does not come again."""
    for kernel_id, _, history, course in found.known():
        for consumer in found.witness.consumers(kernel_id):
            for reading in found.witness.readings:
                if (reading.kernel_id, reading.consumer) != (kernel_id, consumer):
                    continue
                if not reading.identities:
                    continue
                begins = history.position_before(reading.epoch, consumer)
                if problem := _gap(reading, begins, course):
                    yield f"{kernel_id}: {consumer} {problem}"


def _gap(reading: Reading, begins: OutputId, course: Course) -> str:
    """Return what is wrong with a reading; "" if nothing is."""
    start = begins
    right = [
        (sequence, index)
        for sequence in range(max(1, start[0]), reading.identities[-1][0] + 1)
        for index in range(len(course.outputs(sequence)))
        if (sequence, index) > start
    ]
    surest = max(start, reading.asked or start)
    got, wanted = list(reading.identities), right
    if got[0] > surest or got[0] not in wanted:  # what was asked for may count or not
        wanted = [one for one in wanted if one > surest]
    else:
        wanted = list(dropwhile(lambda one: one < got[0] <= surest, wanted))
    wanted = [one for one in wanted if one <= got[-1]]
    needed = [one for one in wanted if one[0] not in course.skipped or one in got]
    if got != needed:
        pairs = [*zip(got, needed, strict=False)]
        wrong = next(((one, other) for one, other in pairs if one != other), None)
        if wrong is None:
            return f"got {len(got)} outputs up to {got[-1]}, not {len(needed)}"
        return f"got output {wrong[0]} where {wrong[1]} should be"
    return ""


INVARIANTS: Final[tuple[Callable[[Evidence], Iterator[str]], ...]] = (
    every_operation_ends,
    one_instance_lives,
    acknowledged_messages_are_there,
    numbers_are_accepted_once_in_order,
    decisions_follow_from_their_inputs,
    states_are_the_fold_of_the_journal,
    outputs_are_equal_under_their_identity,
    outputs_come_once_in_order,
)
