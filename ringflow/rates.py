"""How fast state goes from one device to another, as it was measured.

- A pair is ordered: the way back is another one.
- The smallest and the largest transfer of a pair give a line: its latency and its bandwidth.
- A pair whose path changes (peer access gone, another bus) starts anew: old times say nothing.
"""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.frozen(kw_only=True)
class TransferEstimate:
    """How long a transfer between two devices takes, by what was measured so far.

    Attributes:
        path: how the last transfer went: ``"nvlink"``, ``"pcie peer"``, ``"staged"``, ``"host"``...
        bandwidth: bytes a second.
        latency_s: what a transfer takes beside its bytes.
    """

    path: str
    bandwidth: float
    latency_s: float

    def transfer_s(self, size_bytes: int) -> float:
        """Return about how many seconds the bytes take."""
        return self.latency_s + size_bytes / self.bandwidth


@attrs.frozen
class _Measured:
    """The smallest and the largest transfer of a pair: (bytes, seconds) each."""

    path: str
    smallest: tuple[int, float]
    largest: tuple[int, float]

    def with_transfer(self, path: str, size_bytes: int, taken_s: float) -> _Measured:
        new = (size_bytes, taken_s)
        if path != self.path:
            return _Measured(path, new, new)
        smallest = new if size_bytes <= self.smallest[0] else self.smallest
        return _Measured(path, smallest, new if size_bytes >= self.largest[0] else self.largest)

    def estimate(self) -> TransferEstimate:
        """Return the line through both transfers; through one and zero where they give none."""
        (small, small_s), (large, large_s) = self.smallest, self.largest
        if large > small and large_s > small_s:
            bandwidth = (large - small) / (large_s - small_s)
            latency_s = max(0.0, small_s - small / bandwidth)
            return TransferEstimate(path=self.path, bandwidth=bandwidth, latency_s=latency_s)
        return TransferEstimate(path=self.path, bandwidth=large / large_s, latency_s=0.0)


@final
class TransferRates:
    """What was measured between devices, by their names."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], _Measured] = {}

    def record(
        self, source: str, target: str, *, path: str, size_bytes: int, taken_s: float
    ) -> None:
        """Learn from a transfer; one without bytes or without a time teaches nothing."""
        if size_bytes <= 0 or taken_s <= 0:
            return
        new = (size_bytes, taken_s)
        known = self._pairs.get((source, target), _Measured(path, new, new))
        self._pairs[source, target] = known.with_transfer(path, *new)

    def estimate(self, source: str, target: str) -> TransferEstimate | None:
        """Return what to expect of a pair; None where nothing was measured yet."""
        known = self._pairs.get((source, target))
        return known.estimate() if known else None

    def forget(self, device: str) -> None:
        """Drop what was measured with a device."""
        self._pairs = {pair: known for pair, known in self._pairs.items() if device not in pair}
