"""``ringflow check``: does a kernel's source work on the host device and on GPUs alike."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ringflow.device.compiler.check import CheckReport, Diagnostic

_FILES = typer.Argument(help="CUDA C++ sources.", show_default=False)
_MESSAGES = typer.Option(
    metavar="MODULE:NAME",
    help="Where the kernel's messages are: a module, and in it a list of message classes, "
    "a KernelSpec or one message class. They become <ringflow_messages.cuh>.",
)
_HEADERS = typer.Option("--header", help="A header that the sources include by its file name.")
_FAST = typer.Option("--fast", help='Compile as float_mode="fast" does.')


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(check)


def check(
    files: Annotated[list[Path], _FILES],
    arch: Annotated[str, typer.Option(help="The GPU to compile for, such as sm_90.")] = "sm_80",
    messages: Annotated[list[str] | None, _MESSAGES] = None,
    header: Annotated[list[Path] | None, _HEADERS] = None,
    fast: Annotated[bool, _FAST] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
) -> None:
    """Compile sources for the host device and for a GPU, and tell what only one of them takes.

    The host's side is clang and the translator of its PTX, the GPU's NVRTC; nothing runs, and no
    GPU is needed. Exits with 0 if both take every file and find the same kernels, with 1 if not:
    also where NVRTC is not installed, so that only the host's side was checked. Exits with 2 for
    wrong use.
    """
    from ringflow.device.compiler.check import check_source

    headers = {path.name: _text(path) for path in header or ()}
    headers |= _messages_header(messages or ())
    good = True
    for path in files:
        report = check_source(
            _text(path),
            name=path.as_posix(),
            architecture=arch,
            headers=headers,
            float_mode="fast" if fast else "reproducible",
        )
        good &= report.good
        _print(report, as_json=as_json)
    raise typer.Exit(0 if good else 1)


def _text(path: Path) -> str:
    from ringflow.errors import UsageError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}; name a CUDA C++ source") from None


def _messages_header(names: Iterable[str]) -> dict[str, str]:
    """Return ``ringflow_messages.cuh`` for the named messages; nothing where none are named."""
    from ringflow.device.compiler.headers import MESSAGES_HEADER, messages_header
    from ringflow.messages import layout_of
    from ringflow.spec import KernelSpec

    layouts: dict[str, Any] = {}
    routes: dict[str, None] = {}
    for name in names:
        found = _named(name)
        if isinstance(found, KernelSpec):
            chosen = list(found.struct_layouts)
            routes |= dict.fromkeys(route.name for route in found.routes)
        else:
            chosen = [layout_of(cls) for cls in _classes(name, found)]
        layouts |= {layout.name: layout for layout in chosen}
    if not layouts and not routes:
        return {}
    return {MESSAGES_HEADER: messages_header(layouts.values(), routes)}


def _named(name: str) -> Any:
    """Import what ``MODULE:NAME`` names, from the current folder as well."""
    from ringflow.errors import UsageError

    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--messages {name}: {error}; name it as MODULE:NAME") from error
    finally:
        sys.path.remove("")


def _classes(name: str, found: Any) -> list[type]:
    """Return the message classes that ``name`` stands for."""
    from ringflow.errors import UsageError

    classes = [found] if isinstance(found, type) or not isinstance(found, Iterable) else [*found]
    for one in classes:
        if not isinstance(one, type):
            raise UsageError(
                f"--messages {name}: a {type(one).__name__} is no message class; name a message "
                "class, a list of them or a KernelSpec, as a variable of the module"
            )
    return classes


def _print(report: CheckReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(_json(report))
        return
    one_sided = report.one_sided
    for one in report.diagnostics:
        who = f"only {one.front_end}" if one in one_sided else one.front_end
        typer.echo(f"{one.place}: {one.severity} ({who}): {one.text}")
    for kernel in report.one_sided_kernels:
        side = "the host" if kernel in report.host_kernels else report.architecture
        typer.echo(f"{report.file}: error: only {side} has the kernel {kernel!r}")
    host = "good" if report.host_takes else "refused"
    verdict = {
        "both": f"good for the host device and for {report.architecture}",
        "host only": f"good for the host device, refused for {report.architecture}",
        "gpu only": f"good for {report.architecture}, refused for the host device",
        "neither": "refused for both",
        "incomplete": f"{host} for the host device; GPU: not checked: {report.gpu_unchecked}",
    }[report.verdict]
    typer.echo(f"{report.file}: {verdict}")
    if report.host_takes and not report.host_kernels:
        typer.echo(f'{report.file}: it has no kernel: no extern "C" __global__ function')


def _json(report: CheckReport) -> str:
    import orjson

    one_sided = report.one_sided

    def plain(one: Diagnostic) -> dict[str, object]:
        fields = ("front_end", "severity", "file", "line", "column", "text")
        return {name: getattr(one, name) for name in fields} | {"one_sided": one in one_sided}

    return orjson.dumps(
        {
            "file": report.file,
            "architecture": report.architecture,
            "good": report.good,
            "verdict": report.verdict,
            "host_takes": report.host_takes,
            "gpu_takes": report.gpu_takes,
            "gpu_unchecked": report.gpu_unchecked,
            "host_kernels": report.host_kernels,
            "gpu_kernels": report.gpu_kernels,
            "one_sided_kernels": report.one_sided_kernels,
            "diagnostics": [plain(one) for one in report.diagnostics],
        }
    ).decode()
