"""The main job from end to end: waves on a real sea floor, moved and reloaded while they run."""

from __future__ import annotations

from ringflow.errors import RingflowError


class DemoError(RingflowError):
    """The demo saw what ringflow promises never to happen, or could not finish."""
