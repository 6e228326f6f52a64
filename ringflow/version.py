"""The version of ringflow, as files and journals record it."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
