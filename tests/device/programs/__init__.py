"""Whole programs in CUDA C++, each against numpy, SciPy or plain Python.

Each runs in both dialects that clang writes, and with its threads in rows as well as one by one.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final, Literal

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host.jit import NativeCode, compile_ir
from ringflow.device.host.program import Program
from ringflow.device.host.ptx.parser import parse
from ringflow.device.host.translate import emit_module

FOLDER: Final = Path(__file__).parent
Dialect = Literal["sm_80", "sm_100"]
Form = Literal["vector", "scalar"]

ONE_BY_ONE: Final = ("actor", "spin_lock")
"""Programs all of whose threads poll; there is no code for rows of such."""

FORMS: Final[tuple[Form, ...]] = ("vector", "scalar")
FLAGS: Final[dict[Dialect, tuple[str, ...]]] = {
    "sm_80": (),
    "sm_100": (
        *("--no-cuda-gpu-arch=sm_80", "--cuda-gpu-arch=sm_100", "--cuda-feature=+ptx86"),
        "-O1",
    ),
}

BEYOND: Final[dict[str, str]] = {
    "narrow": "add.rn.f32.f16",
    "smith_waterman": "max.relu.s32",
}
"""Programs that clang writes for sm_100 with an operation outside of the subset; these take the
lower optimisation only."""


def flags_of(name: str, dialect: Dialect) -> tuple[str, ...]:
    """Return what clang is told for ``NAME.cu``."""
    return ("-O1",) if dialect == "sm_100" and name in BEYOND else FLAGS[dialect]


@functools.cache
def ptx_of(name: str, dialect: Dialect) -> str:
    """Return clang's PTX of ``NAME.cu``."""
    source = (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
    return compile_to_ptx(source, name=f"{name}.cu", extra_flags=flags_of(name, dialect))[0]


@functools.cache
def build(name: str, dialect: Dialect, form: Form) -> Program:
    """Return the program of ``NAME.cu``, with or without code for rows of threads.

    Programs with variables of their own are shared by the tests that ask for the same one.
    """
    module = parse(ptx_of(name, dialect))
    facts, text = emit_module(module, frozenset(), True, vector=form == "vector")
    assert ('@"vector.' in text) is (form == "vector" and name not in ONE_BY_ONE)
    return Program(facts, NativeCode(compile_ir(text, level=1)), {}, cached=False)
