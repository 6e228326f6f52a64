"""A device that fails once where a test says so."""

from __future__ import annotations

from typing import Any

from ringflow.device.host.device import HostDevice
from ringflow.errors import DeviceError


class FaultyDevice:
    """A host device; the method named by ``fails_in`` raises once.

    ``fails_in="spoil"`` flips one bit of a region named ``cells`` before it is digested.
    """

    def __init__(self, name: str) -> None:
        self._device = HostDevice(name)
        self.fails_in = ""

    def __getattr__(self, name: str) -> Any:
        if name == self.fails_in:
            self.fails_in = ""
            raise DeviceError(f"injected in {name}", call=name)
        return getattr(self._device, name)

    def copy_to_peer(self, source: Any, peer: Any, target: Any) -> str:
        if self.fails_in == "copy_to_peer":
            self.fails_in = ""
            raise DeviceError("injected in copy_to_peer", call="copy_to_peer")
        return self._device.copy_to_peer(source, peer._device, target)

    def digest_blocks(self, source: Any) -> bytes:
        if self.fails_in == "digest_blocks":
            self.fails_in = ""
            raise DeviceError("injected in digest_blocks", call="digest_blocks")
        if self.fails_in == "spoil" and source.label.endswith("/cells"):
            self.fails_in = ""
            view = self._device.view(source)
            assert view is not None
            view[1000] ^= 1
        return self._device.digest_blocks(source)
