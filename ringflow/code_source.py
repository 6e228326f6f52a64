"""A kernel's code as the user gives it: its text, the kernel in it, and a name of the version."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from enum import Enum
from typing import Final

import attrs

from ringflow.errors import SpecError

_FILE: Final = re.compile(r"[^\n]*\.(cu|cuh|ptx|cubin|cc|cpp|cxx|c|h|hpp|txt)\s*\Z")


class CodeFormat(Enum):
    """The form in which a kernel's code is given."""

    SOURCE = "source"
    PTX = "ptx"
    CUBIN = "cubin"


@attrs.frozen(kw_only=True)
class KernelCodeSource:
    """A kernel's code as the user gives it.

    Attributes:
        version_id: a name of the user's for this version; the hash if none is given.
        created_at_ns: UNIX time in ns, 0 where it is not known.
    """

    format: CodeFormat
    code: bytes
    entry_point: str
    version_id: str
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    created_at_ns: int = 0

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over format, entry point and code."""
        head = f"{self.format.value}\0{self.entry_point}\0".encode()
        return hashlib.sha256(head + self.code).hexdigest()

    @property
    def text(self) -> str:
        return self.code.decode()

    @staticmethod
    def _make(
        format: CodeFormat,
        text: str,
        entry_point: str,
        version_id: str | None,
        metadata: Mapping[str, str] | None,
    ) -> KernelCodeSource:
        if not isinstance(entry_point, str) or not re.match(r"[A-Za-z_]\w*\Z", entry_point):
            raise SpecError(f"entry point {entry_point!r} is not a C identifier; name a kernel")
        if not isinstance(text, str) or _FILE.match(text):
            raise SpecError(
                f"the code must be its text, and {text!r} is none; give that of a file by "
                'Path("...").read_text()'
            )
        if not text.strip():
            raise SpecError("the code is empty; give the kernel's source")
        made = KernelCodeSource(
            format=format,
            code=text.encode(),
            entry_point=entry_point,
            version_id="",
            metadata=dict(metadata or {}),
        )
        return attrs.evolve(made, version_id=version_id or made.hash[:12])

    @classmethod
    def from_cuda(
        cls,
        source: str,
        entry_point: str,
        *,
        version_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> KernelCodeSource:
        """CUDA C++ source; it may ``#include <ringflow.cuh>`` and ``<ringflow_messages.cuh>``."""
        return cls._make(CodeFormat.SOURCE, source, entry_point, version_id, metadata)

    @classmethod
    def from_ptx(
        cls,
        text: str,
        entry_point: str,
        *,
        version_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> KernelCodeSource:
        """PTX text; whether a host device may run it is for its owner's licence to say."""
        return cls._make(CodeFormat.PTX, text, entry_point, version_id, metadata)
