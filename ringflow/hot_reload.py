"""What a hot reload gives back to who asked for it."""

from __future__ import annotations

from ringflow.results import HotReloadResult, ReloadResult

__all__ = ["HotReloadResult", "ReloadResult"]
