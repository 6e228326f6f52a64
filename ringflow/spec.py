"""What a user declares about a kernel: regions, messages, shape, and the promises asked for.

Values only: building one checks it, so a spec that exists is valid by itself.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from ringflow.code_source import KernelCodeSource
from ringflow.errors import SpecError
from ringflow.messages import MessageLayout, layout_of
from ringflow.names import check_cuda_name, check_name

if TYPE_CHECKING:
    import numpy as np

    from ringflow.arrays import DeviceArray

Dim3 = tuple[int, int, int]
Durability = Literal["durable", "async", "volatile"]
ReplayMode = Literal["exact", "checkpoint"]
Release = Literal["covered", "at_once"]

DTYPE_BYTES: Final[Mapping[str, int]] = {
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4,
    "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
BULK_UNIT_BYTES: Final = 64  # what the pieces of bulk arenas are aligned to
BULK_BYTES_MAX: Final = 1 << 31
GLOBAL_PREFIX: Final = "global:"
"""What the regions of ``__device__`` variables are called before the variable's name."""
_GLOBAL = re.compile(rf"{GLOBAL_PREFIX}[\w$%.:]+\Z")
ROUTES_MAX: Final = 256
_COUNTS: Final = (
    *("ring_slots", "reply_slots", "slot_bytes", "max_replies", "bulk_bytes", "reply_bulk_bytes"),
    *("max_reply_data_bytes", "dynamic_shared_bytes", "checkpoint_every_messages"),
)


def _dims(given: Any) -> tuple[int, ...]:
    """Return integers as numpy takes a shape, one alone too; what is none, as it is: to refuse."""
    try:
        return tuple(map(operator.index, given if isinstance(given, Iterable) else (given,)))
    except TypeError:
        return given  # type: ignore[no-any-return]


def _are_positive(dims: object) -> bool:
    return isinstance(dims, tuple) and all(type(n) is int and n > 0 for n in dims)


def _dim3(given: Any) -> Any:
    """Return CUDA's three dimensions, of which one alone is the first."""
    dims = _dims(given)
    return (*dims, 1, 1) if isinstance(dims, tuple) and not isinstance(given, Iterable) else dims


def _dtype(given: Any) -> str:
    """Return the name of what numpy takes as a dtype; what is none here, as it is: to refuse."""
    if given is None or (isinstance(given, str) and given in DTYPE_BYTES):  # None is numpy's f8
        return given  # type: ignore[return-value]
    import numpy as np

    try:
        found = np.dtype(given)
    except (TypeError, ValueError):
        return given  # type: ignore[no-any-return]
    name = str(found.name)
    return name if found.isnative and name in DTYPE_BYTES else given


def _initial(given: Any) -> np.ndarray[Any, Any] | DeviceArray | None:
    from ringflow.arrays import taken

    return None if given is None else taken(given)


@attrs.frozen
class Region:
    """A named array of a kernel's state in device memory.

    Attributes:
        dtype: the name of one; whatever numpy takes for it may be given.
        shape: a single integer may be given for one dimension.
        initial: any library's array of exactly ``dtype`` and ``shape``; zeros where it is ``None``.
            It is kept as it is, and read at launch: don't change it before.
    """

    name: str
    dtype: str = attrs.field(kw_only=True, converter=_dtype)
    shape: tuple[int, ...] = attrs.field(kw_only=True, converter=_dims)
    initial: np.ndarray[Any, Any] | DeviceArray | None = attrs.field(
        default=None, converter=_initial, kw_only=True, eq=False, repr=False
    )

    def __attrs_post_init__(self) -> None:
        from ringflow.errors import RegionMismatchError

        if not (isinstance(self.name, str) and _GLOBAL.match(self.name)):
            check_name("region", self.name)
        if self.dtype not in DTYPE_BYTES:
            raise SpecError(
                f"region {self.name!r}: dtype {self.dtype!r} is none of {', '.join(DTYPE_BYTES)}"
            )
        if not _are_positive(self.shape):
            raise SpecError(
                f"region {self.name!r}: shape {self.shape!r} must be positive integers throughout"
            )
        if self.initial is not None:
            got = (str(self.initial.dtype), tuple(self.initial.shape))
            if got != (self.dtype, self.shape):
                raise RegionMismatchError(
                    self.name, f"{got[0]}{got[1]}", f"{self.dtype}{self.shape}"
                )

    @property
    def size_bytes(self) -> int:
        size = DTYPE_BYTES[self.dtype]
        for n in self.shape:
            size *= n
        return size

    @property
    def implicit(self) -> bool:
        """Whether it is a ``__device__`` variable of the code rather than declared."""
        return self.name.startswith(GLOBAL_PREFIX)

    @property
    def layout(self) -> tuple[str, str, tuple[int, ...]]:
        """Name, dtype and shape: what two regions must share to hold the same bytes."""
        return self.name, self.dtype, self.shape


@attrs.frozen
class Argument:
    """A scalar kernel argument: its name, dtype, and little-endian bytes."""

    name: str
    dtype: str
    value: bytes


def _arguments(given: Mapping[str, Any] | Iterable[Argument]) -> tuple[Argument, ...]:
    if not isinstance(given, Mapping):
        return tuple(given)
    made = []
    for name, value in given.items():
        dtype = str(getattr(value, "dtype", ""))
        if dtype not in DTYPE_BYTES or getattr(value, "shape", None) != ():
            raise SpecError(
                f"argument {name!r} must be a numpy scalar such as np.float32(0.1), got {value!r}"
            )
        made.append(Argument(name, dtype, value.tobytes()))
    return tuple(made)


def _layouts(given: Iterable[type[Any] | MessageLayout]) -> tuple[MessageLayout, ...]:
    return tuple(m if isinstance(m, MessageLayout) else layout_of(m) for m in given)


def _regions(given: Iterable[Region]) -> tuple[Region, ...]:
    return tuple(given)


@attrs.frozen
class Route:
    """A kernel's way out to another kernel, which ``engine.connect`` chooses.

    Attributes:
        messages: what it carries, checked when it is connected; () says nothing about that.
    """

    name: str
    messages: tuple[MessageLayout, ...] = attrs.field(default=(), converter=_layouts, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_cuda_name(f"route {self.name!r}", self.name)


def _routes(given: Iterable[str | Route]) -> tuple[Route, ...]:
    return tuple(Route(one) if isinstance(one, str) else one for one in given)


@attrs.frozen(kw_only=True)
class KernelSpec:
    """A persistent kernel: code, state, messages, and what is promised about them.

    Attributes:
        grid: blocks in x, y, z, or ``"fill"`` for as many as the device runs at once; an integer
            alone is x, of ``block`` too.
        arguments: numpy scalars by name, passed after the regions in this order.
        durability: whether messages are journaled before, after or never (``volatile``).
        replay: ``exact`` if state and replies follow from checkpoint, messages and code alone.
        release: when outputs of a ``checkpoint`` kernel may be seen: once a recovery point covers
            them, or at once, in which case a crash may contradict them. ``exact`` ones go at once.
        ring_slots: messages that the device's ring holds, a power of two.
        slot_bytes: bytes of a slot, 32 of them header; larger payloads, and arrays, are bulk.
        max_replies: replies, and sends to other kernels, that one message may produce at most.
        bulk_bytes: of the arena for the bulk of messages that the device has: a message with more
            is refused, one for which there is no room waits. 0 for none.
        max_reply_data_bytes: of arrays that the replies to one message may carry together.
        reply_bulk_bytes: of the arena for such arrays; messages are delivered while it has room
            for what their replies may carry.
        track_dirty: whether the kernel's ``mark`` notes which blocks of its regions it writes.
        checkpoint_every_messages: a checkpoint is taken after so many messages, which bounds what
            a restart replays; 0: never by itself.
        checkpoint_every_s: likewise after so many seconds in which a message was applied, the
            kernel has passed a ``step``, or outputs were held.
        routes: ways out to other kernels, numbered from 0 in this order.
    """

    kernel_id: str
    kernel_type: str
    code: KernelCodeSource
    messages: tuple[MessageLayout, ...] = attrs.field(default=(), converter=_layouts)
    grid: Dim3 | Literal["fill"] = attrs.field(default=(1, 1, 1), converter=_dim3)
    block: Dim3 = attrs.field(default=(128, 1, 1), converter=_dim3)
    regions: tuple[Region, ...] = attrs.field(default=(), converter=_regions)
    arguments: tuple[Argument, ...] = attrs.field(default=(), converter=_arguments)
    durability: Durability = "durable"
    replay: ReplayMode = "exact"
    release: Release = "covered"
    ring_slots: int = 256
    reply_slots: int = 1024
    slot_bytes: int = 128
    max_replies: int = 1
    bulk_bytes: int = 1 << 20
    max_reply_data_bytes: int = 0
    reply_bulk_bytes: int = 1 << 22
    dynamic_shared_bytes: int = 0
    track_dirty: bool = False
    checkpoint_every_messages: int = 0
    checkpoint_every_s: float = 0.0
    routes: tuple[Route, ...] = attrs.field(default=(), converter=_routes)

    def __attrs_post_init__(self) -> None:
        check_name("kernel id", self.kernel_id)
        check_name("kernel type", self.kernel_type)
        self._check_kinds()
        if self.durability not in ("durable", "async", "volatile"):
            raise SpecError(f"durability {self.durability!r} is none of durable, async, volatile")
        if self.replay not in ("exact", "checkpoint"):
            raise SpecError(f"replay {self.replay!r} is none of exact, checkpoint")
        if self.release not in ("covered", "at_once"):
            raise SpecError(f"release {self.release!r} is none of covered, at_once")
        if self.checkpoint_every_messages < 0 or not 0 <= self.checkpoint_every_s < 1e9:
            raise SpecError(
                "checkpoints come after a count of messages and a time in seconds, none negative; "
                "0 asks for none"
            )
        self._check_shape()
        for region in self.regions:
            if region.implicit:
                raise SpecError(
                    f"region {region.name!r}: variables of the code are regions without being "
                    "declared; leave it out"
                )
        for what, names in (
            ("region", [region.name for region in self.regions]),
            ("message id", [layout.id for layout in self.messages]),
            ("message name", [layout.name for layout in self.struct_layouts]),
            ("argument", [argument.name for argument in self.arguments]),
            ("route", [route.name for route in self.routes]),
        ):
            for name in names:
                if names.count(name) > 1:  # type: ignore[arg-type]
                    raise SpecError(f"{what} {name!r} is declared twice; give each its own")

    def _check_kinds(self) -> None:
        if not isinstance(self.code, KernelCodeSource):
            raise SpecError(
                "the code must be a KernelCodeSource, as KernelCodeSource.from_cuda(text, "
                f"entry_point) makes it, not {self.code!r:.80}"
            )
        for what, given, kind in (
            *(("regions", region, Region) for region in self.regions),
            *(("routes", route, Route) for route in self.routes),
            *(("arguments", argument, Argument) for argument in self.arguments),
        ):
            if not isinstance(given, kind):
                raise SpecError(f"{what} has {given!r}; give a ringflow.{kind.__name__}(...)")
        for name in _COUNTS:
            if type(getattr(self, name)) is not int:
                raise SpecError(f"{name} {getattr(self, name)!r} must be an integer")
        if not isinstance(self.checkpoint_every_s, int | float):
            raise SpecError(f"checkpoint_every_s {self.checkpoint_every_s!r} must be a number")

    def _check_shape(self) -> None:
        for what, dims in (("grid", self.grid), ("block", self.block)):
            if dims == "fill" and what == "grid":
                continue
            if not _are_positive(dims) or len(dims) != 3:
                raise SpecError(f"{what} {dims!r} must be three positive integers, or one")
        x, y, z = self.block
        if x * y * z > 1024:
            raise SpecError(
                f"block {self.block} has {x * y * z} threads; at most 1024 are possible"
            )
        for what, slots in (("ring_slots", self.ring_slots), ("reply_slots", self.reply_slots)):
            if slots < 2 or slots & (slots - 1) or slots > 1 << 16:
                raise SpecError(f"{what} {slots} must be a power of two from 2 to 65536")
        if (
            self.slot_bytes < 64
            or self.slot_bytes & (self.slot_bytes - 1)
            or self.slot_bytes > 4096
        ):
            raise SpecError(f"slot_bytes {self.slot_bytes} must be a power of two from 64 to 4096")
        if not 0 <= self.max_replies <= self.reply_slots:
            raise SpecError(f"max_replies {self.max_replies} must lie between 0 and reply_slots")
        self._check_bulk()
        if len(self.routes) > ROUTES_MAX:
            raise SpecError(f"{len(self.routes)} routes are more than the {ROUTES_MAX} possible")
        for layout in self.struct_layouts:
            if layout.size_bytes > self.payload_bytes_max:
                raise SpecError(
                    f"message {layout.name!r} has {layout.size_bytes} bytes, a slot carries "
                    f"{self.payload_bytes_max}; raise slot_bytes"
                )

    def _check_bulk(self) -> None:
        for what in ("bulk_bytes", "max_reply_data_bytes", "reply_bulk_bytes"):
            if not 0 <= getattr(self, what) <= BULK_BYTES_MAX:
                raise SpecError(
                    f"{what} {getattr(self, what)} must lie between 0 and {BULK_BYTES_MAX}"
                )
        if self.max_reply_data_bytes and not self.max_replies:
            raise SpecError("max_reply_data_bytes needs replies to carry it; raise max_replies")
        if self.reply_share_bytes > self.reply_bulk_bytes:
            raise SpecError(
                f"the replies to one message may need {self.reply_share_bytes} bytes for their "
                f"arrays, reply_bulk_bytes is {self.reply_bulk_bytes}; raise it"
            )

    @property
    def struct_layouts(self) -> tuple[MessageLayout, ...]:
        """The messages that the code can name: those that it takes, then what its routes carry."""
        carried = [layout for route in self.routes for layout in route.messages]
        return tuple(dict.fromkeys((*self.messages, *carried)))

    @property
    def payload_bytes_max(self) -> int:
        return self.slot_bytes - 32

    @property
    def reply_share_bytes(self) -> int:
        """What the arrays of one message's replies need of the arena, their headers included."""
        if not self.max_reply_data_bytes:
            return 0
        padded = self.max_reply_data_bytes + 2 * BULK_UNIT_BYTES * self.max_replies
        return -(-padded // BULK_UNIT_BYTES) * BULK_UNIT_BYTES

    @property
    def reply_shares(self) -> int:
        """Messages for whose replies' arrays there is room at once; 0 where they have none."""
        if not self.max_reply_data_bytes:
            return 0
        return min(self.ring_slots, self.reply_bulk_bytes // self.reply_share_bytes)

    @property
    def holds_outputs(self) -> bool:
        """Whether outputs wait for a recovery point that covers them."""
        return self.replay == "checkpoint" and self.release == "covered"

    @property
    def state_bytes(self) -> int:
        return sum(region.size_bytes for region in self.regions)

    @property
    def without_arrays(self) -> KernelSpec:
        """The spec as it is stored and kept: without the regions' initial arrays."""
        return attrs.evolve(
            self, regions=tuple(attrs.evolve(one, initial=None) for one in self.regions)
        )

    def region(self, name: str) -> Region:
        for region in self.regions:
            if region.name == name:
                return region
        raise SpecError(f"kernel {self.kernel_id!r} has no region {name!r}")
