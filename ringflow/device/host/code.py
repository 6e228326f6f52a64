"""Code on the host device: a translated module, its entries and its variables."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import final

from ringflow.device.api import DeviceGlobal
from ringflow.device.host.program import EntryLayout, Program
from ringflow.device.symbols import dtype_of, readable_names
from ringflow.errors import EntryPointError


@final
class HostCode:
    """A translated module."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._sizes = {
            name: layout.parameter_sizes_bytes for name, layout in program.entries.items()
        }
        state = [variable for variable in program.globals.values() if variable.state]
        named = readable_names(variable.name for variable in state)
        self._globals = tuple(
            DeviceGlobal(
                named[variable.name],
                variable.size_bytes,
                variable.address,
                dtype_of(variable.type),
            )
            for variable in state
        )

    @property
    def parameter_sizes(self) -> Mapping[str, tuple[int, ...]]:
        return self._sizes

    @property
    def globals(self) -> tuple[DeviceGlobal, ...]:
        return self._globals

    @property
    def unlisted(self) -> str:
        return self.program.unlisted

    def view(self, variable: DeviceGlobal) -> memoryview:
        """Return a variable's own bytes (uint8), which keep the code alive."""
        memory = (ctypes.c_ubyte * variable.size_bytes).from_address(variable.address)
        memory.keeps = self.program  # type: ignore[attr-defined]
        return memoryview(memory).cast("B")

    def entry(self, name: str) -> EntryLayout:
        """Return a kernel's layout; raises ``EntryPointError``."""
        layout = self.program.entries.get(name)
        if layout is None:
            known = ", ".join(self.program.entries) or "none"
            raise EntryPointError(
                f"no kernel {name!r}; there are: {known}", call="launch", code="entry point"
            )
        return layout
