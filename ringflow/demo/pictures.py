"""Pictures of the waves over the sea floor, drawn without pyplot and its global state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from ringflow.demo.seafloor import Field, Seafloor

WAVE_NAME: Final = "waves.png"
MAXIMUM_NAME: Final = "maximum.png"


def draw(folder: Path, seafloor: Seafloor, *, height: Field, maximum: Field, time_s: float) -> None:
    """Write ``waves.png`` (the last frame) and ``maximum.png`` into ``folder``."""
    limit = _limit(height)
    title = f"Waves around Vancouver Island after {time_s / 60:.1f} minutes"
    _draw(folder / WAVE_NAME, seafloor, height, title, colours="RdBu_r", low=-limit, high=limit)
    limit = _limit(maximum)
    title = "Highest water since the edges absorb"
    _draw(folder / MAXIMUM_NAME, seafloor, maximum, title, colours="YlOrRd", low=0, high=limit)


def _limit(height: Field) -> float:
    """Return a bound that shows the waves and lets the few highest crests clip."""
    moving = np.abs(height[height != 0])
    return max(float(np.quantile(moving, 0.98)), 1e-3) if moving.size else 1.0


def _draw(
    path: Path,
    seafloor: Seafloor,
    water: Field,
    title: str,
    *,
    colours: str,
    low: float,
    high: float,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    extent = (*seafloor.longitude, *seafloor.latitude)
    place: dict[str, Any] = {"extent": extent, "origin": "lower"}
    wet = seafloor.elevation < 0
    land = np.ma.masked_array(seafloor.elevation, mask=wet)
    axes.imshow(land, **place, cmap="gray", vmin=-1500, vmax=2500)
    floor = np.ma.masked_array(-np.sqrt(np.abs(seafloor.elevation)), mask=~wet)
    axes.imshow(floor, **place, cmap="Blues_r", vmin=-38, vmax=6)
    still = (seafloor.depth <= 0) | (np.abs(water) < 0.01 * high)
    shown = np.ma.masked_array(water, mask=still)
    image = axes.imshow(shown, **place, cmap=colours, vmin=low, vmax=high, alpha=0.85)
    longitude = np.linspace(*seafloor.longitude, water.shape[1])
    latitude = np.linspace(*seafloor.latitude, water.shape[0])
    axes.contour(longitude, latitude, seafloor.elevation, levels=[0], colors="k", linewidths=0.4)
    axes.set(title=title, xlabel="longitude in degrees", ylabel="latitude in degrees")
    axes.set_aspect(1 / np.cos(np.deg2rad(np.mean(seafloor.latitude))))
    figure.colorbar(image, ax=axes, label="height in m", shrink=0.8)
    figure.savefig(path, dpi=110)
