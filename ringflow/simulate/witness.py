"""What the programs of a simulated world were told; it outlives every crash.

What was acknowledged to a sender, and what a reader saw, is what no crash may take back.
"""

from __future__ import annotations

from typing import final

import attrs

from ringflow.kernel import Reply

OutputId = tuple[int, int]
BEFORE_ALL: OutputId = (0, 0)


@final
@attrs.frozen
class Told:
    """A message that its sender was told to be accepted, in this ``epoch``."""

    kernel_id: str
    sequence: int
    type: int
    payload: bytes
    producer: str
    number: int
    epoch: int
    volatile: bool = False


@final
@attrs.frozen
class Seen:
    """An output that somebody got."""

    kernel_id: str
    identity: OutputId
    payload: bytes


@final
@attrs.define
class Reading:
    """One consumer's reading, from its registration to its end.

    Attributes:
        epoch: of the engine; what earlier ones had journaled is sure to be acknowledged.
        asked: the last one whose acknowledgement was asked for; a crash decides what lies between.
        identities: what it got, in order.
    """

    kernel_id: str
    consumer: str
    epoch: int
    asked: OutputId | None
    identities: list[OutputId] = attrs.field(factory=list)


@final
@attrs.define
class Witness:
    """Notes of everything that a program was told.

    Attributes:
        told, seen: by kernel.
        readings: all of them, oldest first.
    """

    told: dict[str, list[Told]] = attrs.field(factory=dict)
    seen: dict[str, list[Seen]] = attrs.field(factory=dict)
    readings: list[Reading] = attrs.field(factory=list)
    _asked: dict[tuple[str, str], OutputId] = attrs.field(factory=dict)

    def accepted(self, told: Told) -> None:
        self.told.setdefault(told.kernel_id, []).append(told)

    def saw(self, reply: Reply) -> None:
        identity = (reply.sequence, reply.index)
        seen = Seen(reply.kernel_id, identity, bytes(reply.payload))
        self.seen.setdefault(reply.kernel_id, []).append(seen)

    def begins(self, kernel_id: str, consumer: str, epoch: int) -> Reading:
        """Note that a consumer begins to read."""
        reading = Reading(kernel_id, consumer, epoch, self._asked.get((kernel_id, consumer)))
        self.readings.append(reading)
        return reading

    def asks(self, reading: Reading, reply: Reply) -> None:
        """Note that an acknowledgement is asked for."""
        self._asked[reading.kernel_id, reading.consumer] = (reply.sequence, reply.index)

    def forgets(self, kernel_id: str, consumer: str) -> None:
        """A consumer that is forgotten begins anew."""
        self._asked.pop((kernel_id, consumer), None)
        self.readings = [
            one for one in self.readings if (one.kernel_id, one.consumer) != (kernel_id, consumer)
        ]

    def consumers(self, kernel_id: str) -> list[str]:
        """Return who reads a kernel's outputs, in the order of their first readings."""
        names = (one.consumer for one in self.readings if one.kernel_id == kernel_id)
        return list(dict.fromkeys(names))
