"""Every error that ringflow raises on purpose.

- ``UsageError``: the caller's fault; nothing was changed.
- ``StorageError``: the journal, a checkpoint or a file is missing, damaged or in conflict.
- ``DeviceError``: a device, a compiler or a kernel failed; ``call`` and ``code`` say where.
- Messages are composed from the fields and end with what to do.
"""

from __future__ import annotations


class RingflowError(Exception):
    """The root of all errors that ringflow raises on purpose."""


class UsageError(RingflowError):
    """The request cannot be granted as it stands; nothing was changed."""


class SpecError(UsageError):
    """A kernel spec, region, message or code source is not valid by itself."""


class IllegalTransitionError(UsageError):
    """A state machine's table has no row for this event in this state."""

    def __init__(self, state: object, event: str) -> None:
        self.state = state
        self.event = event
        super().__init__(
            f"event {event!r} is not allowed in state {getattr(state, 'value', state)!r}; "
            "look at the machine's diagram for the events that are"
        )


class UnknownKernelError(UsageError):
    """No kernel has this id."""

    def __init__(
        self,
        kernel_id: str,
        known: tuple[str, ...] = (),
        *,
        advice: str = "launch it first or correct the id",
    ) -> None:
        self.kernel_id = kernel_id
        super().__init__(
            f"no kernel {kernel_id!r}; known kernels: {', '.join(known) or 'none'}; {advice}"
        )


class DuplicateKernelError(UsageError):
    """A kernel with this id exists already."""

    def __init__(self, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        super().__init__(f"kernel {kernel_id!r} exists already; choose another id or stop it first")


class UnknownRegionError(UsageError, KeyError):
    """A held kernel has no region of this name; as of any mapping, a ``KeyError``."""

    def __init__(self, region: str, known: tuple[str, ...]) -> None:
        self.region = region
        super().__init__(
            f"no region {region!r}; there are: {', '.join(known) or 'none'}; correct the name"
        )

    __str__ = RingflowError.__str__  # a KeyError's is its message in quotes


class DeviceInUseError(UsageError):
    """A device that is to go still has kernels, or some are on their way to it."""

    def __init__(self, device: str, kernels: tuple[str, ...]) -> None:
        self.device = device
        self.kernels = kernels
        super().__init__(
            f"device {device!r} still has {', '.join(map(repr, kernels))}; migrate them away or "
            "unassign them first"
        )


class SameDeviceError(UsageError):
    """A migration names the device on which the kernel already runs."""

    def __init__(self, kernel_id: str, device: str) -> None:
        self.kernel_id = kernel_id
        self.device = device
        super().__init__(
            f"kernel {kernel_id!r} already runs on {device!r}; choose another device as the target"
        )


class KernelBusyError(UsageError):
    """Another operation holds the kernel's lease, or something that is no operation.

    Attributes:
        operation_id: the operation, or the name of the other work, e.g. ``"recovery"``.
    """

    def __init__(self, kernel_id: str, operation_id: str, *, doing: str = "") -> None:
        self.kernel_id = kernel_id
        self.operation_id = operation_id
        super().__init__(
            f"kernel {kernel_id!r} is busy: {doing}; ask again when that has ended"
            if doing
            else f"kernel {kernel_id!r} is leased to operation {operation_id!r}; "
            "wait for its result or cancel it"
        )


class KernelStateError(UsageError):
    """The kernel is in a state in which this request makes no sense."""

    def __init__(self, kernel_id: str, state: str, needed: str) -> None:
        self.kernel_id = kernel_id
        self.state = state
        super().__init__(f"kernel {kernel_id!r} is {state}; this request needs it {needed}")


class UnknownMessageError(UsageError):
    """The kernel's spec declares no message of this type."""

    def __init__(self, kernel_id: str, message_type: object) -> None:
        self.kernel_id = kernel_id
        self.message_type = message_type
        super().__init__(
            f"kernel {kernel_id!r} declares no message {message_type!r}; "
            "add it to KernelSpec(messages=[...])"
        )


class RouteError(UsageError):
    """A kernel's route does not exist, is taken, or can't lead where it should."""

    def __init__(self, kernel_id: str, route: str, reason: str) -> None:
        self.kernel_id = kernel_id
        self.route = route
        super().__init__(f"kernel {kernel_id!r}: route {route!r} {reason}")


class LimitExceededError(UsageError):
    """A size or a count is over its limit."""

    def __init__(self, what: str, value: int, limit: int, advice: str) -> None:
        self.what = what
        self.value = value
        self.limit = limit
        super().__init__(f"{what} is {value}, over the limit of {limit}; {advice}")


class RegionMismatchError(UsageError):
    """A region's data has another shape or dtype than the spec declares."""

    def __init__(self, region: str, got: str, expected: str) -> None:
        self.region = region
        self.got = got
        self.expected = expected
        super().__init__(f"region {region!r} got {got}, its spec says {expected}; convert the data")


class UnlistedStateError(UsageError):
    """The kernel keeps state in variables that can't be carried elsewhere."""

    def __init__(self, kernel_id: str, what: str, reason: str) -> None:
        self.kernel_id = kernel_id
        self.what = what
        self.reason = reason
        super().__init__(
            f"kernel {kernel_id!r} has state outside of its regions, so a {what} would lose it: "
            f"{reason}; keep it in declared regions, indices in place of addresses"
        )


class EngineClosedError(UsageError):
    """The engine is closed, or was closed by a failure of its journal."""


class FolderInUseError(UsageError):
    """Another process has the engine's folder open."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        super().__init__(
            f"folder {folder!r} is in use by another engine; close that one or use another folder"
        )


class DisabledError(UsageError):
    """A service was asked to work while its configuration says ``enabled=False``."""


class MessageSkippedError(RingflowError):
    """A person decided that the message is never applied."""

    def __init__(self, kernel_id: str, sequence: int) -> None:
        self.kernel_id = kernel_id
        self.sequence = sequence
        super().__init__(
            f"message {sequence} of kernel {kernel_id!r} was skipped by a person and is never "
            "applied; the journal says who and why, send it anew if it is to be applied"
        )


class NoReplyError(RingflowError):
    """The kernel has finished a call's message without a reply; it stays applied."""

    def __init__(self, kernel_id: str, sequence: int) -> None:
        self.kernel_id = kernel_id
        self.sequence = sequence
        super().__init__(
            f"kernel {kernel_id!r} finished message {sequence} without a reply; send a message "
            "that it doesn't reply to with send, and wait for its receipt's done"
        )


class OperationCancelledError(RingflowError):
    """The operation was cancelled before its commit point; the kernel runs as before."""


class OperationFailedError(RingflowError):
    """An operation ended without its result; ``state`` says where it left the kernel."""

    def __init__(self, operation_id: str, state: str, reason: str) -> None:
        self.operation_id = operation_id
        self.state = state
        self.reason = reason
        super().__init__(f"operation {operation_id!r} ended {state}: {reason}")


class StorageError(RingflowError):
    """The journal, a checkpoint or a file is missing, damaged or in conflict."""


class NotFoundError(StorageError):
    """The named thing is not in the store."""


class CorruptError(StorageError):
    """Stored bytes contradict their digest or format; never cut or repaired by itself."""


class CorruptJournalError(CorruptError):
    """A journal record that was durable is damaged."""

    def __init__(self, segment: str, line: int, sequence: int | None, reason: str) -> None:
        self.segment = segment
        self.line = line
        self.sequence = sequence
        self.reason = reason
        super().__init__(
            f"journal segment {segment}, line {line}, sequence "
            f"{'unknown' if sequence is None else sequence}: {reason}; restore the segment from "
            "a copy, or look at what `ringflow journal repair` would cut; nothing was cut"
        )


class HeadNotFoundError(CorruptError):
    """A head that was published is not in the journal: its history was changed or cut."""

    def __init__(self, head: str, last_sequence: int) -> None:
        self.head = head
        self.last_sequence = last_sequence
        super().__init__(
            f"no line of the journal, which ends at sequence {last_sequence}, has the hash {head}; "
            "if it was published from this journal, its history was rewritten or cut since: "
            "compare it with a copy"
        )


class EventFormatError(CorruptError):
    """A stored event has a field that its type does not have, or lacks one."""

    def __init__(self, wire_name: str, reason: str) -> None:
        self.wire_name = wire_name
        self.reason = reason
        super().__init__(
            f"stored event {wire_name or 'without a type'!r}: {reason}; "
            "restore the journal from a copy, nothing was cut"
        )


class PayloadLeftOutError(StorageError):
    """A message can't be applied again: its payload was changed or left out by a codec."""

    def __init__(self, kernel_id: str, sequence: int, codec: str, reason: str) -> None:
        self.kernel_id = kernel_id
        self.sequence = sequence
        self.codec = codec
        super().__init__(
            f"message {sequence} of kernel {kernel_id!r} is in the journal only as payload codec "
            f"{codec!r} left it, and {reason}; open the folder with that codec and its key, or "
            "restore a checkpoint that was made after the message"
        )


class UnknownEventError(StorageError):
    """The journal holds an event of a type that this version does not know."""

    def __init__(self, wire_name: str) -> None:
        self.wire_name = wire_name
        super().__init__(
            f"unknown event type {wire_name!r}; open the folder with the version that wrote it, "
            "or a newer one"
        )


class DiskReserveError(StorageError):
    """The disk is nearly full; the rest is kept so that running operations can finish."""

    def __init__(self, free_bytes: int, reserve_bytes: int) -> None:
        self.free_bytes = free_bytes
        self.reserve_bytes = reserve_bytes
        super().__init__(
            f"{free_bytes} bytes are free, {reserve_bytes} are kept in reserve; "
            "free disk space, new messages and operations are refused until then"
        )


class ArchivedError(StorageError):
    """The journal begins later: what was asked for was archived."""

    def __init__(self, sequence: int, first_sequence: int) -> None:
        self.sequence = sequence
        self.first_sequence = first_sequence
        super().__init__(
            f"sequence {sequence} was archived, the journal begins with {first_sequence}; "
            "read the folder that the archive went to, or start from 0 for the oldest there is"
        )


class ConflictError(StorageError):
    """The store holds something else under this name or version."""


class ConcurrencyError(ConflictError):
    """A stream is not at the version that an append expects; nothing was appended."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        self.stream = stream
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"stream {stream!r} is at version {actual}, {expected} was expected; read what was "
            "appended since, decide again and append"
        )


class IdempotencyConflictError(ConflictError):
    """The key of a request was used before for another request; nothing was started."""

    def __init__(self, key: str, operation_id: str) -> None:
        self.key = key
        self.operation_id = operation_id
        super().__init__(
            f"key {key!r} belongs to operation {operation_id!r}, which was asked for something "
            "else; use a new key for a new request"
        )


class JournalClosedError(StorageError):
    """The journal is closed; after a failed write or fsync it must be opened anew."""


class OutcomeUnknownError(StorageError):
    """It is unknown whether the request became durable; ask after a restart."""


class DeviceError(RingflowError):
    """A device, a compiler or a kernel failed.

    Attributes:
        call: the call or step that failed, e.g. ``"allocate"`` or ``"cuLaunchKernel"``.
        code: its error code or name, empty where there is none.
    """

    def __init__(self, message: str, *, call: str = "", code: str = "") -> None:
        self.call = call
        self.code = code
        super().__init__(message)


class UnknownDeviceError(UsageError, DeviceError):
    """No device has this name; or the engine was not opened with it, the coordinator not told."""

    def __init__(
        self,
        device: str,
        known: tuple[str, ...] = (),
        *,
        advice: str = "add it to open_engine(devices=[...])",
    ) -> None:
        self.device = device
        super().__init__(
            f"no device {device!r}; there are: {', '.join(known) or 'none'}; {advice}",
            call="open",
            code="unknown device",
        )


class DeviceLostError(DeviceError):
    """A device's context is lost, and with it every kernel and all memory there.

    Attributes:
        device: its name.
    """

    def __init__(self, device: str, reason: str, *, call: str = "", code: str = "") -> None:
        self.device = device
        super().__init__(
            f"device {device!r} is lost: {reason}; restore its kernels on another device, and "
            "restart the process to use it again",
            call=call,
            code=code,
        )


class DeviceMemoryError(DeviceError):
    """The device has not enough free memory.

    Attributes:
        largest_bytes: the largest piece that is free, where that is less than all that is.
    """

    def __init__(
        self,
        device: str,
        wanted_bytes: int,
        free_bytes: int,
        *,
        largest_bytes: int | None = None,
        what: str = "",
        advice: str = "migrate a kernel away or raise the device's limit",
    ) -> None:
        self.device = device
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes
        self.largest_bytes = free_bytes if largest_bytes is None else largest_bytes
        pieces = "" if largest_bytes is None else f", {largest_bytes} of them in one piece"
        super().__init__(
            f"device {device!r} has {free_bytes} bytes {what and what + ' '}free{pieces}, "
            f"{wanted_bytes} were asked for; {advice}",
            call="allocate",
            code="out of memory",
        )


class CompileError(DeviceError):
    """The compiler refused the source.

    Attributes:
        log: the compiler's whole output, with file, line and column.
    """

    def __init__(self, compiler: str, log: str) -> None:
        self.compiler = compiler
        self.log = log
        super().__init__(
            f"{compiler} refused the source; mend what it names:\n{log.rstrip()}",
            call=compiler,
            code="compile failed",
        )


class EntryPointError(DeviceError):
    """The code has no kernel of this name, or its parameters are not the spec's."""


class UnsupportedPtxError(DeviceError):
    """The PTX uses an operation that the host device does not have; refused at load."""

    def __init__(self, operation: str, line: int, detail: str = "") -> None:
        self.operation = operation
        self.line = line
        super().__init__(
            f"PTX line {line}: {operation!r} is not supported by the host device"
            f"{': ' + detail if detail else ''}; rewrite the kernel without it",
            call="load",
            code="unsupported ptx",
        )


class PtxSyntaxError(DeviceError):
    """The PTX text is not well formed."""

    def __init__(self, line: int, detail: str) -> None:
        self.line = line
        super().__init__(
            f"PTX line {line}: {detail}; recompile it from source", call="load", code="syntax"
        )


class KernelStalledError(DeviceError):
    """The kernel did not answer a command within its deadline."""


class KernelTrappedError(DeviceError):
    """The kernel executed a trap; its memory is not to be trusted."""


class SimulationStuckError(RingflowError):
    """What a simulation waits for never comes: nothing is due any more, or without an end.

    Attributes:
        waiting: where each task waits, one line each.
    """

    def __init__(self, reason: str, waiting: tuple[str, ...] = ()) -> None:
        self.waiting = waiting
        listed = "".join(f"\n  {one}" for one in waiting)
        super().__init__(
            f"the simulation is stuck: {reason}; look for who should wake the tasks{listed}"
        )


class SimulatedCrashError(RingflowError):
    """The simulated process has crashed; restart the world to go on."""


class InvariantError(RingflowError):
    """What must hold in every simulated world does not.

    Attributes:
        invariant: its name.
        problem: what was found.
    """

    def __init__(self, invariant: str, problem: str) -> None:
        self.invariant = invariant
        self.problem = problem
        super().__init__(f"{invariant}: {problem}; run it again to look: it comes from its seed")


class ScenarioError(UsageError):
    """A scenario file is not well formed, or a command of it can't be done as written.

    Attributes:
        line, column: where, from 1.
    """

    def __init__(self, path: str, line: int, column: int, problem: str) -> None:
        self.path = path
        self.line = line
        self.column = column
        super().__init__(f"{path}:{line}:{column}: {problem}")
