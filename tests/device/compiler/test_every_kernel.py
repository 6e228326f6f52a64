"""Every .cu file in the tree compiles for the host and, unless it is the host's own, for a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from ringflow.demo.script import COMMANDS
from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.compiler.headers import MESSAGES_HEADER, messages_header
from ringflow.device.compiler.nvrtc import compile_to_cubin
from ringflow.messages import MessageLayout, layout_of
from ringflow.scenario.describing import header_of, messages_of
from tests.engine import arrays, kernels
from tests.recovery.soak import kernel as soak

ROOT: Final = Path(__file__).parents[3]
FOLDERS: Final = ("examples", "ringflow", "tests", "benchmarks", "scenarios")
HOST_ONLY: Final = ("ringflow/device/host", "ringflow/device/native")
MESSAGES: Final = {  # of a folder's files, and of single files that have their own
    "examples/shallow_water": COMMANDS,
    "tests/engine/kernels": (*kernels.MESSAGES, kernels.Hop),
    "tests/engine/kernels/arrays.cu": (arrays.Fold, arrays.Mirror, arrays.Wait, arrays.Ask),
    "tests/recovery/soak": (soak.Fold, soak.Probe, soak.Poison),
}
ROUTES: Final = {"tests/engine/kernels": ("next", "typed"), "scenarios/kernels": ("next", "log")}
DEFINED: Final = {"tests/recovery/soak/kernel.cu": soak.code(1).text}  # with what its program says
SAID: Final = ("scenarios/kernels", "ringflow/simulate/kernels")  # by comments in the files
BROKEN: Final = ("scenarios/kernels/adder_broken.cu",)  # on purpose

FILES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.cu")
    if path.relative_to(ROOT).as_posix() not in BROKEN
)


def _source(file: str) -> str:
    return DEFINED.get(file) or (ROOT / file).read_text(encoding="utf-8")


def _headers(file: str) -> dict[str, str]:
    if file.startswith(HOST_ONLY):
        shared = (ROOT / "ringflow/device/native").glob("*.cuh")
        headers = {f"ringflow_{path.name}": path.read_text(encoding="utf-8") for path in shared}
        words = ROOT / "ringflow/device/host/runtime/cta.cuh"
        return {**headers, words.name: words.read_text(encoding="utf-8")}
    folder = Path(file).parent.as_posix()
    if folder in SAID:
        said = header_of(_source(file))
        layouts: Sequence[MessageLayout] = messages_of(said.get("messages", ""))
    else:
        classes = MESSAGES.get(file) or MESSAGES.get(folder, ())
        layouts = [layout_of(cls) for cls in classes]
    return {MESSAGES_HEADER: messages_header(layouts, ROUTES.get(folder, ()))}


def test_the_examples_are_among_the_files() -> None:
    """The list is not empty by a moved folder."""
    assert any(file.startswith("examples/shallow_water/") for file in FILES)


@pytest.mark.parametrize("file", FILES)
def test_it_compiles_for_the_host(file: str) -> None:
    """With no warning."""
    _, log = compile_to_ptx(_source(file), name=file, headers=_headers(file))
    assert log == ""


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(HOST_ONLY)])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_it_compiles_for_a_gpu(file: str, architecture: str) -> None:
    """To a cubin: the proof, with no GPU, that the source is good for one."""
    headers = _headers(file)
    compile_to_cubin(_source(file), architecture=architecture, name=file, headers=headers)
