"""Programs whose threads, blocks or kernels work together: warps, rings, barriers, locks."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest

from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host.runner import Grid
from ringflow.device.host.translate import translate
from ringflow.errors import KernelTrappedError, UnsupportedPtxError
from tests.device.host.programs import run, start
from tests.device.programs import BEYOND, FLAGS, FOLDER, ptx_of
from tests.device.programs.conftest import Build


def test_the_dialects_differ() -> None:
    """They are two texts for two targets."""
    first, second = (ptx_of("globals", dialect) for dialect in FLAGS)
    assert ".target sm_80" in first
    assert ".target sm_100" in second


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_beyond_the_subset_is_refused_by_name(name: str) -> None:
    """An exception from the second dialect that is no longer needed has to go."""
    source = (FOLDER / f"{name}.cu").read_text(encoding="utf-8")
    ptx, _ = compile_to_ptx(source, name=name, extra_flags=FLAGS["sm_100"])
    with pytest.raises(UnsupportedPtxError) as refused:
        translate(ptx)
    assert refused.value.operation == BEYOND[name]


def test_shuffles(load: Build) -> None:
    """Each kind, in whole warps and in parts of them."""
    n = 64
    values = np.random.default_rng(1).integers(-999, 999, n).astype(np.int32)
    out = np.zeros((5, n), np.int32)
    run(load("warps"), "shuffles", 1, n, out, values)
    t = np.arange(n)
    lane, warp = t % 32, t // 32 * 32
    sources = [
        warp + 5,
        t // 8 * 8 + (t + 3) % 8,
        np.where(lane >= 2, t - 2, t),
        np.where(t % 16 + 3 < 16, t + 3, t),
        warp + (lane ^ 9),
    ]
    np.testing.assert_array_equal(out, values[np.array(sources)])

    doubles, moved = np.random.default_rng(2).standard_normal(n), np.zeros(n)
    run(load("warps"), "wide", 1, n, moved, doubles)
    down = np.where(t % 8 + 4 < 8, t + 4, t)
    np.testing.assert_array_equal(moved, doubles[t ^ 1] - doubles[down])


def _bits(flags: npt.NDArray[np.bool_]) -> int:
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def test_votes(load: Build) -> None:
    """Ballot, any, all, uni, match and reduce, by warp."""
    n = 96
    values = np.random.default_rng(3).integers(0, 110, n).astype(np.int32)
    values[32:64], values[64:] = 7, 2
    out = np.zeros((8, n), np.uint32)
    run(load("warps"), "votes", 1, n, out, values)
    for t in range(n):
        v = values[t // 32 * 32 :][:32]
        uni = len(set(v > 3)) == 1
        whole = 0xFFFFFFFF
        assert out[0, t] == _bits(v & 1 == 1)
        assert out[1, t] == int((v == 7).any()) | int((v < 100).all()) << 1 | uni << 2
        assert out[2, t] == _bits(v % 5 == values[t] % 5)
        assert (out[3, t], out[4, t]) == (whole, 1)
        assert out[5, t] == v.sum()
        assert out[6, t] == v.max()
        assert out[7, t] == np.bitwise_xor.reduce(v)


def test_match_all_of_different_values(load: Build) -> None:
    """One value that differs, and none has a match."""
    values = np.full(64, 7, np.int32)
    values[40] = 8
    out = np.zeros((8, 64), np.uint32)
    run(load("warps"), "votes", 1, 64, out, values)
    assert out[3, 0] == 0xFFFFFFFF
    assert not out[3, 32:].any()
    assert out[4].tolist() == [1] * 32 + [0] * 32


def test_collectives_in_half_a_warp(load: Build) -> None:
    """Both halves vote and shuffle in branches of their own, then meet."""
    n = 64
    values = np.random.default_rng(4).integers(0, 1000, n).astype(np.int32)
    out = np.zeros((2, n), np.uint32)
    run(load("warps"), "halves", 1, n, out, values)
    for t in range(n):
        warp = values[t // 32 * 32 :][:32]
        low = t % 32 < 16
        odd = _bits(warp & (1 if low else 2) != 0) & (0xFFFF if low else 0xFFFF0000)
        assert out[0, t] == (odd + int(warp[3 if low else 20])) % 2**32
    assert (out[1] == 32).all()


def _alternate(*grids: Grid, budget: int = 5, rounds_max: int = 20_000) -> None:
    """Let grids run in turns until all are done."""
    for _ in range(rounds_max):
        for grid in grids:
            grid.round(budget)
        if all(grid.done for grid in grids):
            return
    raise AssertionError("the kernels do not end")


@pytest.mark.parametrize("capacity", [1, 8])
def test_ring_between_two_kernels(load: Build, capacity: int) -> None:
    """Every number arrives once, in order of the ring, however small it is."""
    count = 100
    ring, slots = np.zeros(2, np.uint32), np.zeros(capacity, np.uint32)
    out = np.zeros(32, np.uint64)
    sizes = (np.uint32(capacity), np.uint32(count))
    producer = start(load("ring"), "producer", 1, 1, ring, slots, *map(int, sizes))
    consumer = start(load("ring"), "consumer", 1, 32, ring, slots, *map(int, sizes), out)
    _alternate(producer, consumer)
    assert ring.tolist() == [count, count]
    total = sum(n * n + 1 for n in range(count))
    assert out.tolist() == [total * (t + 1) for t in range(32)]


def test_persistent_actor(load: Build) -> None:
    """It idles until a command arrives, answers each, keeps its state, and leaves when told."""
    box, state = np.zeros(5, np.uint32), np.arange(100, dtype=np.int32)
    actor = start(load("actor"), "actor", 1, 64, box, state, state.size)
    commands = [(1, 5), (2, -3), (3, 0), (1, 7), (3, 0), (4, 0)]
    expected = np.arange(100)
    for sequence, (command, argument) in enumerate(commands, start=1):
        for _ in range(100):
            actor.round(64)
            if actor.idle:
                break
        assert actor.idle
        assert not actor.done
        box[1:3] = command, argument % 2**32
        box[0] = sequence
        for _ in range(100):
            actor.round(64)
            if box[3] == sequence:
                break
        assert box[3] == sequence
        if command == 1:
            expected += argument
        elif command == 2:
            expected *= argument
        elif command == 3:
            assert box[4:].view(np.int32)[0] == expected.sum()
    _alternate(actor)
    np.testing.assert_array_equal(state, expected)


@pytest.mark.parametrize("budget", [1, 100])
def test_grid_barrier(load: Build, budget: int) -> None:
    """No block reads a value before all have written theirs."""
    values, arrived = np.arange(96, dtype=np.int32), np.zeros(1, np.uint32)
    run(load("grid_barrier"), "rotate", 3, 32, arrived, values, 7, budget=budget)
    np.testing.assert_array_equal(values, (np.arange(96) + 7) % 96 + 7)
    assert arrived[0] == 3 * 7 * 2


def test_globals_constants_and_function_pointers(load: Build) -> None:
    """What one kernel leaves in a variable of the module, another one reads."""
    program = load("globals")
    counter = ctypes.c_int32.from_address(program.globals["counter"].address)
    before = counter.value
    out, weighted = np.zeros(30, np.int32), np.zeros(4, np.float32)
    run(program, "apply", 1, 30, out, weighted)
    operations = [lambda x: 2 * x, lambda x: x * x, lambda x: -x]
    assert out.tolist() == [
        operations[i % 3](operations[(i + 1) % 3](i)) + (-10 if i & 1 else 10) for i in range(30)
    ]
    assert weighted.tolist() == [7.75, 7.375, 7.1875, 7.0]
    assert counter.value == before + sum(range(30))
    seen = np.zeros(1, np.uint64)
    run(program, "read", 1, 1, seen)
    assert seen[0] == (counter.value << 32) + counter.value


def test_spin_lock(load: Build) -> None:
    """No update is lost, among the threads of a warp and between blocks."""
    rounds, threads = 4, 2 * 48
    word, totals = np.zeros(1, np.int32), np.zeros(2, np.int64)
    run(load("spin_lock"), "count", 2, 48, word, totals, rounds)
    chained = 0
    for _ in range(rounds * threads):
        chained = chained * 3 % 1000003 + 1
    assert totals.tolist() == [rounds * threads, chained]
    assert word[0] == 0


def test_integer_atomics(load: Build) -> None:
    """Each operation's final value, which no order changes."""
    n = 96
    s = np.array([3, 3, 1000, -1000], np.int32)
    u = np.array([2**32 - 1, 0, 0, 0, 0, 5000], np.uint32)
    q, longs = np.zeros(4, np.uint64), np.zeros(1, np.int64)
    run(load("atomics"), "integers", 3, 32, s, u, q, longs)
    i = np.arange(n)
    order = 7 * i % 64 - 20
    total = int(i.sum())
    assert s.tolist() == [3 + total, 3 - total, order.min(), order.max()]
    xor32 = np.bitwise_xor.reduce((0x9E3779B9 * i) % 2**32)
    decremented = 0
    for _ in range(n):
        decremented = 6 if decremented == 0 or decremented > 6 else decremented - 1
    set_bits = 2**31 - 1
    assert u.tolist() == [2**31, set_bits, xor32, n % 10, decremented, 1000 - 95]
    xor64 = 0
    for k in range(n):
        xor64 ^= 0x9E3779B97F4A7C15 * k % 2**64
    assert q.tolist() == [0x100000001 * total, 95 << 33, xor64, n]
    assert longs[0] == -(95 << 33)


def test_float_atomics(load: Build) -> None:
    """Sums that are exact in any order."""
    f, d = np.zeros(1, np.float32), np.zeros(1)
    run(load("atomics"), "floats", 2, 64, f, d)
    assert f[0] == 2 * sum(range(64))
    assert d[0] == 0.25 * 2 * sum(range(64))


def test_tickets_are_given_once(load: Build) -> None:
    """What an atomic returns is different in every thread."""
    following, owner = np.zeros(1, np.uint32), np.full(96, -1, np.int32)
    run(load("atomics"), "tickets", 3, 32, following, owner)
    assert sorted(owner.tolist()) == list(range(96))


def test_loops_of_compare_and_swap(load: Build) -> None:
    """An atomic product made of ``atomicCAS``, and an exchange of floats."""
    product, exchanged = np.array([3], np.float32), np.array([5, 0], np.float32)
    run(load("atomics"), "multiply", 1, 65, product, exchanged)
    assert product[0] == 1.5
    assert exchanged.tolist() == [8, 5]


def test_trap_names_block_and_thread(load: Build) -> None:
    """The error says where, the block before it has done its work, its own wrote nothing."""
    values, out = np.zeros(96, np.int32), np.full(96, -1, np.int32)
    values[64 + 21] = 50
    with pytest.raises(KernelTrappedError, match="thread 21 of block 2"):
        run(load("trap"), "checked", 3, 32, out, values, 50)
    assert out[:64].tolist() == [1] * 64
    assert out[64:].tolist() == [-1] * 32
