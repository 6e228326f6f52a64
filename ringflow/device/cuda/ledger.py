"""The ledger of a GPU: which grids are resident, and whether another one fits beside them. Pure.

- A persistent grid keeps its multiprocessors (SMs) for as long as it lives. One that has to wait
  for room beside it waits for ever, so it is not launched at all.
- A block of a kernel of which n blocks fit on an empty SM takes at most 1/n of each of the SM's
  resources; shares of different kernels may be added up.
- The placing of blocks is the hardware's; here they go one at a time to the emptiest SM. What
  differs from that is found by the launch proof: the kernel's started word, with a deadline.
- Each grid has a hardware work queue to itself; what else uses it would wait for the grid.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final, final

import attrs

from ringflow.errors import DeviceError

COPY_QUEUES: Final = 4
"""Work queues that belong to copies and digests: in, out, to peers, and work beside them."""


@final
@attrs.frozen(eq=False)
class Place:
    """What a grid takes of a GPU.

    Attributes:
        cooperative: it was launched so; there is at most one such grid at a time.
    """

    blocks: tuple[int, ...]
    share: Fraction
    cooperative: bool


class Ledger:
    """The grids that live on one GPU."""

    def __init__(self, device: str, *, sm_count: int, queue_count: int) -> None:
        self._device = device
        self._loads = [Fraction(0)] * sm_count
        self._places: list[Place] = []
        self.queues_max = queue_count - COPY_QUEUES

    @property
    def grids(self) -> int:
        """How many grids live."""
        return len(self._places)

    def fitting(self, occupancy: int) -> int:
        """Return how many blocks fit now, of a kernel of which ``occupancy`` fit on an empty SM."""
        return sum(int((1 - load) * occupancy) for load in self._loads)

    def take(self, kernel: str, blocks: int, occupancy: int) -> Place:
        """Take room for a grid.

        Raises:
            DeviceError: it does not fit beside what runs (code ``"does not fit"``), or no work
                queue is free (``"queues"``).
        """
        if self.grids >= self.queues_max:
            raise DeviceError(
                f"{self._device!r} has {self.grids} grids on its {self.queues_max} work queues for "
                f"them; stop a kernel or launch {kernel!r} elsewhere, or raise "
                "CUDA_DEVICE_MAX_CONNECTIONS (32 at most) before the process starts",
                call="launch",
                code="queues",
            )
        if occupancy < 1:
            raise DeviceError(
                f"not one block of {kernel!r} fits on an SM of {self._device!r}; make its blocks "
                "smaller, or let it use fewer registers and less shared memory",
                call="launch",
                code="does not fit",
            )
        placed = self._placed(blocks, occupancy)
        if placed is None:
            empty = occupancy * len(self._loads)
            room = self.fitting(occupancy)
            what = (
                "its blocks can never be resident together"
                if blocks > empty
                else (f"{self.grids} other grids hold the rest")
            )
            raise DeviceError(
                f"a grid of {blocks} blocks of {kernel!r} does not fit on {self._device!r}: room "
                f"is for {room}, {what}; launch a smaller grid, or move or stop a kernel",
                call="launch",
                code="does not fit",
            )
        cooperative = blocks > 1 and not any(place.cooperative for place in self._places)
        place = Place(placed, Fraction(1, occupancy), cooperative)
        self._places.append(place)
        self._add(place, 1)
        return place

    def give(self, place: Place) -> None:
        """Take the room of an ended grid back."""
        self._places.remove(place)
        self._add(place, -1)

    def _placed(self, blocks: int, occupancy: int) -> tuple[int, ...] | None:
        """Return blocks by SM, one at a time to the emptiest; None if they don't all fit."""
        rooms = [int((1 - load) * occupancy) for load in self._loads]
        if sum(rooms) < blocks:
            return None
        placed = [0] * len(rooms)
        order = sorted(range(len(rooms)), key=self._loads.__getitem__)
        while blocks:
            for index in order:
                if blocks and placed[index] < rooms[index]:
                    placed[index] += 1
                    blocks -= 1
        return tuple(placed)

    def _add(self, place: Place, sign: int) -> None:
        for index, count in enumerate(place.blocks):
            self._loads[index] += sign * count * place.share
