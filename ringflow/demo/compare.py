"""Bit for bit: two runs' regions and replies, and the kernels' result against the numpy solver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from ringflow.demo.records import Identity
from ringflow.demo.reference import Waves
from ringflow.demo.seafloor import Field
from ringflow.demo.story import Ending, Regions

ERROR_MAX: Final = 1e-4


def differences(eventful: Ending, quiet: Ending) -> list[str]:
    """Return a line for each thing that is not the same in both runs, bit for bit."""
    return [
        *_missing_replies(eventful),
        *_differing_replies(eventful.replies, quiet.replies),
        *_differing_regions(eventful.regions, quiet.regions),
    ]


def _missing_replies(ending: Ending) -> list[str]:
    expected = {(sequence, 0) for sequence in range(1, ending.last_number + 1)}
    return [
        f"reply {index} to message {sequence}: "
        f"{'lost' if (sequence, index) in expected else 'extra'}"
        for sequence, index in sorted(expected ^ set(ending.replies))
    ]


def _differing_replies(
    ours: Mapping[Identity, bytes], theirs: Mapping[Identity, bytes]
) -> list[str]:
    def text(payload: bytes | None) -> str:
        return "none" if payload is None else payload.hex()

    return [
        f"reply {identity[1]} to message {identity[0]}: {text(ours.get(identity))} in the eventful "
        f"run, {text(theirs.get(identity))} in the quiet one"
        for identity in sorted({*ours, *theirs})
        if ours.get(identity) != theirs.get(identity)
    ]


def _differing_regions(ours: Regions, theirs: Regions) -> list[str]:
    lines = [f"region {name}: in one run only" for name in sorted({*ours} ^ {*theirs})]
    for name in sorted({*ours} & {*theirs}):
        a, b = ours[name], theirs[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            lines.append(f"region {name}: {a.dtype}{a.shape} and {b.dtype}{b.shape}")
        elif a.tobytes() != b.tobytes():
            bits = f"u{a.dtype.itemsize}"
            count = np.count_nonzero(a.view(bits) != b.view(bits))
            lines.append(f"region {name}: {count} of {a.size} values differ")
    return lines


def solver_errors(regions: Regions, waves: Waves) -> dict[str, float]:
    """Return the relative error of the last frame and of the maximum against the numpy solver."""
    errors = {"height": relative_error(regions["height"], waves.height)}
    if waves.maximum is not None:
        errors["maximum"] = relative_error(regions["maximum"], waves.maximum)
    return errors


def relative_error(ours: Field, theirs: Field) -> float:
    """Return the largest difference over the largest magnitude; NaN anywhere gives infinity."""
    difference = float(np.max(np.abs(ours.astype(np.float64) - theirs)))
    size = float(np.max(np.abs(theirs)))
    error = difference / size if size > 0 else difference
    return error if np.isfinite(error) else float("inf")
