"""Random programs against numpy, and against g++ where it is installed.

``RINGFLOW_FUZZ_VALUES`` asks for more values, ``RINGFLOW_FUZZ_SEED`` for other programs; a failure
names the seed that repeats it.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from ringflow.device.host.program import Program
from ringflow.device.host.translate import translate
from tests.device.host import fuzz_cpp, model
from tests.device.host.fuzz import INPUTS, OPERATIONS, Array, FuzzProgram, make_inputs, make_program
from tests.device.host.operations import BITS
from tests.device.host.programs import run

LANES = 256
STEPS = 80
SEED = int(os.environ.get("RINGFLOW_FUZZ_SEED", "20240229"))
VALUES = int(os.environ.get("RINGFLOW_FUZZ_VALUES", "120000"))
PROGRAMS = max(1, -(-VALUES // (LANES * STEPS)))


def padded(inputs: list[Array]) -> Array:
    """Return uint64[inputs, n], narrow inputs in the low half."""
    words = np.zeros((len(inputs), len(inputs[0])), np.uint64)
    for row, values in zip(words, inputs, strict=True):
        row[:] = values.view(np.uint32 if values.itemsize == 4 else np.uint64)
    return words


def run_on(program: Program, made: FuzzProgram, inputs: list[Array], block: int) -> Array:
    out = np.zeros((len(made.steps), LANES), np.uint64)
    run(program, "k", LANES // block, block, padded(inputs), out, LANES)
    return out


def compare(made: FuzzProgram, words: Array, inputs: list[Array], seed: int, note: str) -> None:
    """Compare every value with numpy's; NaNs match whatever their bits are."""
    for number, (step, row, expected) in enumerate(
        zip(made.steps, words, made.evaluate(inputs), strict=True)
    ):
        kind = step.operation.kinds[0]
        got = row.astype(np.uint32) if expected.itemsize < 8 else row
        if kind in "fg":
            floats = got.view(expected.dtype)
            wanted = expected.view(got.dtype)
            same = (got == wanted) | (np.isnan(floats) & np.isnan(expected))
        else:
            same = got == expected.astype(got.dtype)
        if not same.all():
            lane = int(np.argmin(same))
            raise AssertionError(
                f"seed {seed}, {note}: step {number}, {step.operation.text} of values "
                f"{step.sources}: lane {lane} gives {int(got[lane]):#x}, not {expected[lane]!r}"
            )


@pytest.mark.parametrize("number", range(PROGRAMS))
def test_random_programs_give_what_numpy_gives(number: int) -> None:
    """Integers, shifts, conversions, f32 and f64; as vectors, and thread by thread."""
    seed = SEED + number
    print(f"seed {seed}")
    made = make_program(random.Random(seed), STEPS, list(OPERATIONS))
    program = translate(made.ptx())
    inputs = make_inputs(seed, LANES)
    for block in (64, 4):
        compare(made, run_on(program, made, inputs, block), inputs, seed, f"block {block}")


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize("number", range(2))
def test_random_programs_give_what_a_c_compiler_gives(number: int, tmp_path: Path) -> None:
    """The same programs as C++; numpy agrees too."""
    seed = SEED + 1_000_000 + number
    print(f"seed {seed}")
    known = fuzz_cpp.names()
    assert len(known) == len(set(known) & OPERATIONS.keys())
    made = make_program(random.Random(seed), 150, known)
    inputs = make_inputs(seed, LANES)
    library = ctypes.CDLL(str(fuzz_cpp.build(made, tmp_path)))
    expected = np.zeros((len(made.steps), LANES), np.uint64)
    words = padded(inputs)
    library.k(
        ctypes.c_void_p(words.ctypes.data),
        ctypes.c_void_p(expected.ctypes.data),
        ctypes.c_uint64(LANES),
    )
    compare(made, expected, inputs, seed, "g++")
    got = run_on(translate(made.ptx()), made, inputs, 64)
    for step, row, wanted in zip(made.steps, got, expected, strict=True):
        kind = step.operation.kinds[0]
        bits = BITS.get(kind, 32)
        for word, other in zip(row.tolist(), wanted.tolist(), strict=True):
            both_nan = kind in "fg" and model.is_nan(word, bits) and model.is_nan(other, bits)
            assert word == other or both_nan, f"seed {seed}: {step.operation.text}"


def test_the_fuzz_covers_every_operation() -> None:
    """The programs of one run use nearly all operations, and enough values."""
    used = {
        step.operation.name
        for number in range(max(PROGRAMS, 6))
        for step in make_program(random.Random(SEED + number), STEPS, list(OPERATIONS)).steps
    }
    assert min(VALUES - LANES * STEPS, 20_000) <= PROGRAMS * LANES * STEPS
    assert len(used) > len(OPERATIONS) * 0.8


def test_a_wrong_result_is_found() -> None:
    """The comparison sees one wrong bit."""
    made = make_program(random.Random(5), 10, ["add32", "mulf32"])
    inputs = make_inputs(5, LANES)
    words = run_on(translate(made.ptx()), made, inputs, 64)
    compare(made, words, inputs, 5, "right")
    words[4, 17] ^= np.uint64(1)
    with pytest.raises(AssertionError, match=r"step 4.*lane 17"):
        compare(made, words, inputs, 5, "wrong")


def test_inputs_have_every_kind() -> None:
    """A program can start with any operation."""
    assert set(INPUTS) == set("rdfg")
