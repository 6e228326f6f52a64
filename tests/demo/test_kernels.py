"""The CUDA kernels on the host device against the numpy solver, message by message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
import numpy as np
import pytest

from ringflow.demo.kernels import BLOCKS, CONVERT, code, first_spec, second_regions
from ringflow.demo.reference import Waves, apply
from ringflow.demo.script import Answer, Command, Disturb, Energy, Gauge, command_at
from ringflow.demo.seafloor import Field, Seafloor, make_seafloor
from ringflow.device.abi import Command as Order
from ringflow.device.api import Device, LaunchStatus
from ringflow.device.posting import Posting
from ringflow.device.pump import Output
from ringflow.device.registry import open_device
from ringflow.engine.instances import (
    Instance,
    compile_for,
    create,
    run_convert,
    shared_regions,
    transfer,
    write_initial,
)
from ringflow.messages import pack, unpack
from ringflow.spec import KernelSpec

SEAFLOOR = make_seafloor(0.05)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    """A host device of these tests' own."""
    opened = open_device("host:0")
    yield opened
    opened.close()


def build(device: Device, spec: KernelSpec) -> Instance:
    """Compile, load and fill a kernel; it isn't launched yet."""
    instance = create(device, spec, compile_for(spec, device, None), grid=None, epoch=1)
    write_initial(instance, spec.regions)
    return instance


def later_spec(version: str) -> KernelSpec:
    """Return the spec of version 2 or 3."""
    return attrs.evolve(first_spec(SEAFLOOR), code=code(version), regions=second_regions(SEAFLOOR))


def say(instance: Instance, commands: Iterable[Command]) -> list[bytes]:
    """Launch, send messages, return their replies in order; the kernel has left its loop."""
    resident = instance.resident
    resident.launch(gate_open=True, timeout_s=30)
    postings = [
        Posting(sequence, *pack(command)) for sequence, command in enumerate(commands, start=1)
    ]
    assert resident.post(postings) == len(postings)
    resident.command(Order.RETURN_DRAINED)
    assert resident.wait_ended(60) is LaunchStatus.COMPLETED
    outputs: list[Output] = []
    while (report := resident.collect()) is not None:
        outputs += report.outputs
    assert [(o.sequence, o.index) for o in outputs] == [(p.sequence, 0) for p in postings]
    return [output.payload for output in outputs]


def region(instance: Instance, name: str) -> Field:
    """Return a copy of a region of cells."""
    data = np.frombuffer(instance.resident.read_region(name), np.float32)
    return data.reshape(SEAFLOOR.shape)


def check_reply(waves: Waves, seafloor: Seafloor, command: Command, payload: bytes) -> None:
    """Compare a reply with the solver, which has handled the same message."""
    if isinstance(command, Energy):
        assert unpack(Answer, payload).energy == pytest.approx(waves.energy(), rel=1e-5)
    elif isinstance(command, Gauge):
        level = unpack(Answer, payload).height
        assert level == pytest.approx(float(waves.height[command.y, command.x]), abs=1e-6)


def test_first_version_is_the_solver_bit_for_bit(device: Device) -> None:
    """Same scheme, same order, no contraction: the same floats in every cell and reply."""
    instance = build(device, first_spec(SEAFLOOR))
    commands = [command_at(SEAFLOOR.shape, number) for number in range(1, 61)]
    waves = Waves(SEAFLOOR)
    payloads = say(instance, commands)
    for command, payload in zip(commands, payloads, strict=True):
        apply(waves, command)
        check_reply(waves, SEAFLOOR, command, payload)
    assert np.abs(waves.height).max() > 0.01
    assert np.array_equal(region(instance, "height"), waves.height)
    instance.close()


def test_second_version_goes_on_after_the_conversion(device: Device) -> None:
    """The convert kernel takes over the water; sponge and maximum are the solver's."""
    first, second = build(device, first_spec(SEAFLOOR)), build(device, later_spec("v2"))
    waves = Waves(SEAFLOOR)
    numbers = range(1, 31), range(31, 91)
    early, late = ([command_at(SEAFLOOR.shape, n) for n in part] for part in numbers)
    say(first, early)
    transfer(first, second, shared_regions(first.spec, second.spec))
    run_convert(first, second, CONVERT, timeout_s=30)
    payloads = say(second, late)
    for command in early:
        apply(waves, command)
    waves.absorb()
    for command, payload in zip(late, payloads, strict=True):
        apply(waves, command)
        check_reply(waves, SEAFLOOR, command, payload)
    assert waves.maximum is not None
    assert np.array_equal(region(second, "height"), waves.height)
    assert np.array_equal(region(second, "maximum"), waves.maximum)
    first.close()
    second.close()


def test_replies_and_state_do_not_depend_on_the_grid(device: Device) -> None:
    """One block or eight: the energy's sum has one order, so every reply has the same bits."""
    commands = [command_at(SEAFLOOR.shape, number) for number in range(1, 51)]
    results = []
    for blocks in (1, 3, BLOCKS):
        instance = build(device, attrs.evolve(first_spec(SEAFLOOR), grid=(blocks, 1, 1)))
        replies = say(instance, commands)
        results.append((replies, region(instance, "height").tobytes()))
        instance.close()
    assert results[0] == results[1] == results[2]


def test_third_version_traps_at_its_fourth_message(device: Device) -> None:
    """The reload of it has something to roll back from."""
    instance = build(device, later_spec("v3"))
    resident = instance.resident
    resident.launch(gate_open=True, timeout_s=30)
    commands = [command_at(SEAFLOOR.shape, number) for number in range(1, 6)]
    resident.post([Posting(number, *pack(c)) for number, c in enumerate(commands, start=1)])
    assert resident.wait_ended(60) is LaunchStatus.TRAPPED
    assert resident.taken_sequence == 4
    instance.close()


def test_cells_off_the_grid_are_kept_on_it(device: Device) -> None:
    """A message may name any cell; the kernel never reads outside its regions."""
    instance = build(device, first_spec(SEAFLOOR))
    far = 2**32 - 1
    replies = say(instance, [Disturb(far, far, 2.0, 1.0), Gauge(far, 0)])
    assert [unpack(Answer, reply) for reply in replies] == [Answer(0, 0.0, 0.0)] * 2
    instance.close()
