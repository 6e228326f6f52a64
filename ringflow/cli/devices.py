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
    GPUs can be opened by the UUID too, which stays the same when their order changes.
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
    """Return driver, GPUs and their links, and what is missing."""
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
    for gpu in cuda["gpus"]:
        said.append(
            f"{gpu['name']}  {printable(gpu['model'])}, {size_text(gpu['memory_bytes'])} of "
            f"memory, {gpu['architecture']}, {gpu['sm_count']} SMs, {gpu['uuid']}"
        )
        if gpu["refusal"]:
            said.append(f"        can't be used: {printable(gpu['refusal'])}")
    for link in cuda["links"]:
        more = [link[name] for name in ("distance", "unknown") if link[name]]
        said.append(f"{' - '.join(link['between'])}  {printable('; '.join([link['path'], *more]))}")
    versions = [f"driver for CUDA {cuda['driver']}"] if cuda["driver"] else []
    if cuda["driver"] or cuda["nvrtc"]:
        versions.append(f"NVRTC {cuda['nvrtc'] or 'missing'}")
        said.append(f"cuda    {', '.join(versions)}")
    if cuda["missing"]:
        parts = [cuda["missing"], *([cuda["advice"]] if cuda["advice"] else [])]
        said.append(f"cuda    none can be used: {printable('; '.join(parts))}")
    return said
