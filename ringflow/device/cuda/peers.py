"""Copies from one GPU's memory to another's, and which GPUs of this process may reach which.

- Access between contexts is opened when a device is, never later: it waits for every kernel in
  either context, so it is opened only while no grid lives in both, and launches are held off.
- Access that is there already (704) is as good as new.
- A copy runs by DMA on a stream of the side that may reach the other, in pieces whose ends are
  awaited with a deadline. Without access the driver takes it through the host's memory: correct,
  slower, and said: the path is that of the copy that ran.
- Whether all bytes arrived is for digests to say; the engine compares them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, final

import attrs

from ringflow.device.cuda import driver
from ringflow.device.cuda.context import CudaContext
from ringflow.device.cuda.topology import STAGED, Gpu, Link, link_between
from ringflow.errors import DeviceError

PIECE_BYTES: Final = 64 << 20
PIECE_TIMEOUT_S: Final = 10.0
"""A piece takes 3 ms over PCIe; what takes this long has stopped."""

SCRATCH_BYTES: Final = 64
_IN_FLIGHT: Final = 2
_ALREADY: Final = "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED"

_RUNNING: Final = (
    "a kernel was running when the second of the two devices was opened; open both before the "
    "first launch"
)


class WhileIdle(Protocol):
    """Do something while no grid lives on a device and none begins."""

    def __call__(self, work: Callable[[], Any], *, what: str) -> Any:
        """Return ``work()``; raises ``DeviceError`` with code ``"busy"`` where a grid lives."""


@final
@attrs.define(eq=False)
class Member:
    """An open context, as others reach it.

    Attributes:
        context: of the device.
        stream: its own one for peer copies, made when the device was opened.
        while_idle: does something on the device that waits for its grids, if there are none.
        scratch: address of ``SCRATCH_BYTES`` of its memory, which nothing else uses.
    """

    context: CudaContext
    stream: Any
    while_idle: WhileIdle
    scratch: int


@final
class Peers:
    """The open contexts of a process, and what is between each two of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self._accesses: dict[tuple[str, str], str] = {}
        self._links: dict[tuple[str, str], Link] = {}

    def join(self, context: CudaContext, *, while_idle: WhileIdle, scratch: int) -> Member:
        """Add a context, and open access between it and the others, both ways.

        Where there is none a few bytes are copied each way: for the first copy the driver takes
        memory of the host. Where a grid lives in the other context nothing is opened: copies to
        it are staged.

        Raises:
            DeviceError: the driver refuses what has nothing to do with access.
            DeviceLostError: the context is dead; of another one that is, copies are staged.
        """
        with context.current():
            member = Member(context, context.make_stream(), while_idle, scratch)
        with self._lock:
            for other in self._members:
                if other.context.uuid != context.uuid and other.context.lost is None:
                    self._connect(member, other)
            context.check()
            self._members.append(member)
        return member

    def leave(self, member: Member) -> None:
        """Forget a context; call it before the context is closed."""
        with self._lock:
            self._members.remove(member)
            uuid = member.context.uuid
            if all(one.context.uuid != uuid for one in self._members):
                for known in (self._accesses, self._links):
                    for pair in [pair for pair in known if uuid in pair]:
                        del known[pair]

    def link(self, source: CudaContext, target: CudaContext) -> Link:
        """Return what copies between two different GPUs use, as it is now."""
        best = self._link(source, target)
        reasons = [self._accesses.get(pair, "not opened") for pair in _pairs(source, target)]
        if not best.is_direct or "" in reasons:
            return best
        return attrs.evolve(
            best, path=STAGED, unknown=f"{best.path} is there, but not used: {reasons[0]}"
        )

    def copy(
        self,
        source: Member,
        source_address: int,
        target: Member,
        target_address: int,
        size_bytes: int,
    ) -> str:
        """Copy device memory to another GPU; return the path: that of ``Link.path``.

        Raises:
            DeviceError: a piece has not ended in time (code ``"timeout"``), or the driver refused
                something; what was issued may still come, so neither end's memory is to be used
                for anything else before ``Unfinished`` says so.
            DeviceLostError: one of the two contexts is dead.
        """
        source.context.check()
        target.context.check()
        path = self.link(source.context, target.context).path
        reaches = self._accesses.get((source.context.uuid, target.context.uuid)) == ""
        pulls = path != STAGED and not reaches
        runner = target if pulls else source
        try:
            with runner.context.current(), _events(runner.context) as events:
                _copy_pieces(
                    runner,
                    (target_address, target.context.handle),
                    (source_address, source.context.handle),
                    size_bytes,
                    events=events,
                )
        except DeviceError as error:
            if not driver.is_lost(error):
                raise
            raise _lost_one(error, runner, source, target) from error
        return path

    def _link(self, source: CudaContext, target: CudaContext) -> Link:
        pair = (source.uuid, target.uuid)
        if pair not in self._links:
            ends = (Gpu(device=one.device, uuid=one.uuid) for one in (source, target))
            self._links[pair] = link_between(*ends)
        return self._links[pair]

    def _connect(self, new: Member, old: Member) -> None:
        is_direct = self._link(new.context, old.context).is_direct
        pairs = _pairs(new.context, old.context)
        if is_direct and all(self._accesses.get(pair) == "" for pair in pairs):
            return

        def connect() -> None:
            for pair, one, other in zip(pairs, (new, old), (old, new), strict=True):
                if is_direct:
                    self._accesses[pair] = _open_access(one, other)
            if self.link(new.context, old.context).path == STAGED:
                _copy_once(new, old)
                _copy_once(old, new)

        try:
            new.while_idle(lambda: old.while_idle(connect, what="peer access"), what="peer access")
        except DeviceError as error:
            if error.code != "busy":
                raise
            self._accesses.update(dict.fromkeys(pairs, _RUNNING))


def _copy_once(source: Member, target: Member) -> None:
    """Copy a few bytes; what is wrong is told by the first copy that somebody wants."""
    to, of = ((one.scratch, one.context.handle) for one in (target, source))
    with (
        contextlib.suppress(DeviceError),
        source.context.current(),
        _events(source.context) as events,
    ):
        _copy_pieces(source, to, of, SCRATCH_BYTES, events=events)


def _pairs(source: CudaContext, target: CudaContext) -> tuple[tuple[str, str], tuple[str, str]]:
    return (source.uuid, target.uuid), (target.uuid, source.uuid)


def _open_access(one: Member, other: Member) -> str:
    """Let a context reach another's memory; return why it may not, "" if it may."""
    context, there = one.context, other.context
    if not driver.call("cuDeviceCanAccessPeer", context.device, there.device):
        return f"{context.name!r} can't access {there.name!r}"
    try:
        with context.current():  # the call is not the context's: it may answer the other's death
            driver.call("cuCtxEnablePeerAccess", there.handle, 0)
    except DeviceError as error:
        if error.code == _ALREADY:
            return ""
        return str(_lost_one(error, one, other, one) if driver.is_lost(error) else error)
    return ""


@contextlib.contextmanager
def _events(context: CudaContext) -> Iterator[list[Any]]:
    events = [context.make_event() for _ in range(_IN_FLIGHT)]
    try:
        yield events
    finally:
        for event in events:
            context.drop_event(event)


def _copy_pieces(
    runner: Member,
    target: tuple[int, Any],
    source: tuple[int, Any],
    size_bytes: int,
    *,
    events: list[Any],
) -> None:
    """Issue the pieces one after the other, a bounded number ahead of the one awaited."""
    context, stream, timeout_s = runner.context, runner.stream, PIECE_TIMEOUT_S
    starts = range(0, size_bytes, PIECE_BYTES)
    what = "a copy to a peer"
    for index, start in enumerate(starts):
        event = events[index % _IN_FLIGHT]
        if index >= _IN_FLIGHT:
            context.await_event(event, timeout_s, what=what)
        piece_bytes = min(PIECE_BYTES, size_bytes - start)
        driver.call(  # not the context's: what it answers may be the other context's death
            "cuMemcpyPeerAsync",
            target[0] + start,
            target[1],
            source[0] + start,
            source[1],
            piece_bytes,
            stream,
        )
        context.call("cuEventRecord", event, stream)
    for index in range(max(0, len(starts) - _IN_FLIGHT), len(starts)):
        context.await_event(events[index % _IN_FLIGHT], timeout_s, what=what)


def _lost_one(error: DeviceError, runner: Member, *members: Member) -> DeviceError:
    """Return a fatal error of a copy as that of the context which is dead: each is asked."""
    for member in members:
        try:
            with member.context.current():
                member.context.ask("cuStreamQuery", member.stream)
        except DeviceError as found:
            return found
    return runner.context.noted(error)


_shared = Peers()


def shared_peers() -> Peers:
    """Return the process's own: contexts are the process's."""
    return _shared
