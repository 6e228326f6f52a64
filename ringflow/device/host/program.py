"""What the translator hands out: native code of one PTX module, with the facts to run it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import MappingProxyType
from typing import final

import attrs

from ringflow.device.host import cta
from ringflow.device.host.emit.mathematics import libm_address
from ringflow.device.host.jit import NativeCode
from ringflow.device.host.ptx.positions import Positions
from ringflow.device.host.runtime import runtime_address
from ringflow.errors import EntryPointError, UnsupportedPtxError


@attrs.frozen
class GlobalVariable:
    """A ``.global`` or ``.const`` variable in this process's memory.

    Attributes:
        mutable: whether it is in memory that code may write to.
        state: whether this module's code does, and the value means the same elsewhere.
        type: fundamental type of its elements in PTX, such as ``u32``.
    """

    name: str
    size_bytes: int
    address: int
    mutable: bool
    state: bool = False
    type: str = "b8"


@attrs.frozen
class EntryLayout:
    """The memory that an entry needs for each CTA, and its parameters.

    Attributes:
        shared_bytes: static shared memory; dynamic shared memory follows it.
        local_bytes: local memory of one thread.
        unit_count: 4-byte units that each thread has for its state, mailboxes and spills.
        region_count: resume points.
        reserved_shared_bytes: what memcheck keeps at the start of static shared memory.
        region_lines: line in the PTX of the collective before each resume point, or 0.
    """

    name: str
    parameter_sizes_bytes: tuple[int, ...]
    parameter_offsets_bytes: tuple[int, ...]
    parameters_bytes: int
    shared_bytes: int
    local_bytes: int
    unit_count: int
    region_count: int
    reserved_shared_bytes: int = 0
    region_lines: tuple[int, ...] = ()


@attrs.frozen
class VariableFacts:
    """What is known of a variable before it has a place; see ``GlobalVariable``."""

    size_bytes: int
    mutable: bool
    state: bool
    type: str


@attrs.frozen
class Facts:
    """What is known of a translated module besides its object file.

    Attributes:
        refused: functions that only exist inlined in kernels, with the reason and its line.
        positions: where in the source the PTX comes from.
        memcheck: whether accesses are checked.
        unlisted: why not all state can be carried elsewhere, empty where it can.
    """

    entries: Mapping[str, EntryLayout]
    variables: Mapping[str, VariableFacts]
    functions: tuple[str, ...]
    refused: Mapping[str, tuple[str, int]]
    externs: tuple[str, ...]
    positions: Positions = attrs.Factory(Positions)
    memcheck: bool = False
    unlisted: str = ""


@final
class Program:
    """Native code of one PTX module, kept alive as long as this object.

    Attributes:
        cached: whether the code came from the object cache.
    """

    def __init__(
        self, facts: Facts, code: NativeCode, externs: Mapping[str, int], *, cached: bool
    ) -> None:
        self._facts = facts
        self._code = code
        self._better: NativeCode | None = None
        self.cached = cached
        code.bind({f"x.{name}": _extern_address(name, externs) for name in facts.externs})
        self.entries: Mapping[str, EntryLayout] = MappingProxyType(dict(facts.entries))
        self.globals: Mapping[str, GlobalVariable] = MappingProxyType(
            {
                name: GlobalVariable(
                    name,
                    one.size_bytes,
                    code.variable(f"g.{name}"),
                    one.mutable,
                    one.state,
                    one.type,
                )
                for name, one in facts.variables.items()
            }
        )

    def adopt(self, code: NativeCode, externs: Mapping[str, int]) -> None:
        """Let the entries run ``code``, a better translation of the same text, from here on.

        A region's function is replaced by one store of a pointer; threads that are within the old
        one finish it, which stays alive. Where a thread goes on, and where its values lie, is
        the same in both.
        """
        code.bind({f"x.{name}": _extern_address(name, externs) for name in self._facts.externs})
        for name, layout in self.entries.items():
            kind = ctypes.c_uint64 * layout.region_count
            old = kind.from_address(self._code.variable(f"runs.{name}"))
            new = kind.from_address(code.variable(f"runs.{name}"))
            for region_index, address in enumerate(new):
                old[region_index] = address
        self._better = code

    @property
    def prints(self) -> bool:
        """Whether a kernel of the module may print."""
        return "ringflow_print" in self._facts.externs

    @property
    def memcheck(self) -> bool:
        """Whether accesses and collectives are checked."""
        return self._facts.memcheck

    @property
    def unlisted(self) -> str:
        """Why not all of the module's state can be carried elsewhere, empty where it can."""
        return self._facts.unlisted

    def position(self, ptx_line: int) -> str:
        """Return the place in the source of a line of the PTX, else the line itself."""
        return self._facts.positions.find(ptx_line) or f"PTX line {ptx_line}"

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the plain functions."""
        return self._facts.functions

    def function(self, name: str) -> int:
        """Return the address of a plain function with the C ABI.

        Parameters and results are integers and pointers; a float travels as its bits.

        Raises:
            EntryPointError: there is no such function, or it runs inside of kernels only.
        """
        if name in self._facts.refused:
            reason, line = self._facts.refused[name]
            raise EntryPointError(
                f"function {name!r} runs inside of kernels only: {reason} (PTX line {line}); "
                "call one that needs no kernel",
                call="function",
                code="not callable",
            )
        if name not in self._facts.functions:
            raise EntryPointError(
                f"no function {name!r}; there are: {', '.join(self._facts.functions) or 'none'}",
                call="function",
                code="not found",
            )
        return self._code.function(f"f.{name}")

    def step_function(self, entry: str) -> int:
        """Return the address of ``int32 step(void* cta, int32 budget)``; see ``cta.py``."""
        self._entry(entry)
        return self._code.function(f"step.{entry}")

    def init_function(self, entry: str) -> int:
        """Return the address of ``void init(void* cta, const void* record, uint32 cta_index)``.

        The record is ``cta.RECORD_BYTES`` long; the index counts x first, then y, then z.
        """
        self._entry(entry)
        return self._code.function(f"init.{entry}")

    def context_bytes(
        self, entry: str, *, block: tuple[int, int, int], dynamic_shared_bytes: int = 0
    ) -> int:
        """Return the size of one CTA's memory, which starts at a multiple of 64 bytes."""
        layout = self._entry(entry)
        return cta.context_bytes(
            layout.unit_count,
            block[0] * block[1] * block[2],
            local_bytes=layout.local_bytes,
            shared_bytes=layout.shared_bytes + dynamic_shared_bytes,
        )

    def _entry(self, name: str) -> EntryLayout:
        layout = self.entries.get(name)
        if layout is None:
            raise EntryPointError(
                f"no kernel {name!r}; there are: {', '.join(self.entries) or 'none'}",
                call="load",
                code="not found",
            )
        return layout


def _extern_address(name: str, given: Mapping[str, int]) -> int:
    address = given.get(name) or runtime_address(name) or libm_address(name)
    if not address:
        raise UnsupportedPtxError(name, 0, "this machine's C library lacks it")
    return address
