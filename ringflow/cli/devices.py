"""``ringflow devices``: what ``open_device`` takes on this machine."""

from __future__ import annotations

import platform
from typing import Annotated, Any, Final

import typer

_SHOWN: Final = (
    *("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512fp16", "amx-tile"),
    *("neon", "sve", "fullfp16", "bf16"),
)
"""Those of LLVM's names for parts of an instruction set that tell most of a CPU."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(devices)


def devices(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the devices that kernels can run on here, and say what is missing for GPUs.

    host:0, host:1 and so on are memory domains on this machine's CPU; they share its workers.
    """
    from ringflow.cli.printing import json_line

    found = {"host": host_facts(), "cuda": cuda_facts()}
    if as_json:
        typer.echo(json_line(found))
        return
    for line in lines(**found):
        typer.echo(line)


def host_facts() -> dict[str, Any]:
    """Return memory, workers and instruction set of the host devices."""
    from ringflow.device.host.device import system_memory_bytes
    from ringflow.device.host.jit import cpu
    from ringflow.device.host.pool import default_worker_count

    name, features = cpu()
    has = {one[1:] for one in features.split(",") if one.startswith("+")}
    return {
        "names": "host:N",
        "memory_bytes": system_memory_bytes(),
        "workers": default_worker_count(),
        "architecture": platform.machine(),
        "cpu": name,
        "features": [one for one in _SHOWN if one in has],
    }


def cuda_facts() -> dict[str, Any]:
    """Return driver and GPUs, and what is missing."""
    import attrs

    from ringflow.device.cuda.probe import probe

    return attrs.asdict(probe())


def lines(host: dict[str, Any], cuda: dict[str, Any]) -> list[str]:
    """Return the facts as text."""
    from ringflow.cli.printing import printable
    from ringflow.cli.story import size_text

    said = [
        f"{host['names']}  {size_text(host['memory_bytes'])} of memory, {host['workers']} workers, "
        f"{host['architecture']} {host['cpu']} ({', '.join(host['features'])})"
    ]
    for number, name in enumerate(cuda["gpus"]):
        said.append(f"cuda:{number}  {printable(name)}, driver for CUDA {cuda['driver']}")
    if cuda["missing"]:
        said.append(f"cuda    none: {printable(cuda['missing'])}")
    return said
