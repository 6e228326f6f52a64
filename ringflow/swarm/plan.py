"""Random plans: scenario commands as lines, drawn from a seed.

- A plan is data: any part of its lines is a plan too, which is what shrinking needs. Each line but
  the checks is a ``try``: what the engine refuses is no failure.
- One seed, one plan, whatever the process. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from re import Match
from typing import Final, final

import attrs

from ringflow.scenario.script import RULER
from ringflow.simulate.faults import CALLS_OF_DEVICES, CALLS_OF_FILES

CHECK: Final = "check"
LAST_CHECK: Final = "check closed=yes"
HOLDS: Final = "everything holds"
KERNEL: Final = "ringflow:fold.cu"
CODES: Final = {
    "good3": 'define="FACTOR=3" version=fold_3',
    "good7": 'define="FACTOR=7" version=fold_7',
    "traps": 'define="FACTOR=5 TRAP_AT=2" version=fold_5_traps',
    "broken": 'define="FACTOR=oops(" version=fold_9_broken',
}
GPU_SHARE: Final = 0.3
_LOSSES: Final = ("all", "none", "names_only", "tail", "holes")
_PLACES: Final = ("journal", "checkpoints", "objects", "engine")


@final
@attrs.frozen
class Plan:
    """What is done in one world.

    Attributes:
        seed: of the world.
        lines: commands, without their ``try`` and outputs.
    """

    seed: int
    lines: tuple[str, ...]

    def text(self, purpose: str) -> str:
        """Return it as a scenario file: whatever is tried, every check must pass."""
        commands = [("seed " + str(self.seed), ""), *map(_command, self.lines)]
        parts = [f"{command}\n{RULER}\n{output}" for command, output in commands]
        return f"# {purpose}\n\n" + "\n".join(parts).rstrip("\n") + "\n"


def _command(line: str) -> tuple[str, str]:
    if line.startswith(CHECK):
        return line, HOLDS + "\n"
    return (line if _is_setting(line) else f"try {line}"), ""


def _is_setting(line: str) -> bool:
    return line.split()[0] in ("devices", "limits", "kernel", "code")


def is_removable(line: str) -> bool:
    """Return whether shrinking may leave a line out: all but the last check."""
    return line != LAST_CHECK


@final
class Drawing:
    """Draws one plan."""

    def __init__(self, seed: int, length: int) -> None:
        self._random = Random(f"{seed}/plan")
        self._length = length
        self._names = 0
        self._devices: list[str] = []
        self._kernels: list[str] = []
        self._begun: list[str] = []
        self._down = False
        self._recovers_in = 0  # lines after a fault that may have ended the engine; 0: none

    def lines(self) -> tuple[str, ...]:
        made = [self._topology(), self._limits()]
        made += [f"code {name} file={KERNEL} {options}" for name, options in CODES.items()]
        for _ in range(self._random.randint(1, 3)):
            made += self._kernel()
        actions, weights = [*ACTIONS], [*ACTIONS.values()]
        while len(made) < self._length:
            if self._down and self._chance(0.8):
                made += self._restart()
                continue
            made += self._random.choices(actions, weights)[0](self)
            if self._recovers_in == 1:
                made += [self._one("close", "crash"), *self._restart()]
                self._begun.clear()
            self._recovers_in = max(0, self._recovers_in - 1)
        return (*[line for line in made if line], LAST_CHECK)

    # What a world has

    def _topology(self) -> str:
        self._devices = [f"host:{index}" for index in range(self._random.randint(1, 4))]
        limits = (self._one("", "", "", "/2MiB", "/5MiB") for _ in self._devices)
        return "devices " + " ".join(
            name + limit for name, limit in zip(self._devices, limits, strict=True)
        )

    def _limits(self) -> str:
        if self._chance(0.5):
            return ""
        return (
            f"limits parked_messages={self._one(8, 64)} recovery_points_kept={self._one(1, 2, 3)} "
            f"state_snapshot_records={self._one(0, 20)}"
        )

    def _kernel(self) -> list[str]:
        name = f"k{len(self._kernels) + 1}"
        self._kernels.append(name)
        options = ""
        if self._chance(0.3):
            options += f" durability={self._one('async', 'volatile')}"
        if self._chance(0.25):
            options += " replay=checkpoint"
        if self._chance(0.3):
            options += " ring_slots=8 reply_slots=32"
        return [
            f"kernel {name} file={KERNEL} version=fold_1{options}",
            f"launch {name} on={self._one(*self._devices)}",
        ]

    # Draws

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _one(self, *of: object) -> str:
        return str(self._random.choice(of))

    def _any(self) -> str:
        return self._one(*self._kernels)

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    def _begin(self, command: str, *, probability: float = 0.5) -> list[str]:
        """Let a command be begun, perhaps, so that others come while it goes on."""
        if not self._chance(probability):
            return [command]
        name = self._name("w")
        self._begun.append(name)
        made = [f"begin {name} {command}"]
        if self._chance(0.7):
            made.append(f"step {self._random.randint(1, 1 << self._random.randint(1, 10))}")
        return made

    # What is done

    def send(self) -> list[str]:
        first, count = self._random.randrange(1000), self._random.randint(1, 15)
        producer = f" producer={self._name('p')}" if self._chance(0.7) else ""
        return self._begin(f"send {self._any()} Fold value={first}.. count={count}{producer}")

    def burst(self) -> list[str]:
        """Several producers at once, behind a message that takes long, while something goes on."""
        kernel, made = self._any(), []
        if self._chance(0.6):
            made.append(
                f"begin {self._name('w')} send {kernel} Spin rounds={self._one(9, 99, 999)}"
            )
        for _ in range(self._random.randint(1, 4)):
            first, count = self._random.randrange(1000), self._random.randint(2, 40)
            name, producer = self._name("w"), self._name("p")
            made.append(
                f"begin {name} send {kernel} Fold value={first}.. count={count} producer={producer}"
            )
        if self._chance(0.5):
            made.append(f"step {self._random.randint(1, 1 << self._random.randint(1, 7))}")
        what = self._one(
            f"migrate {kernel} to={self._one(*self._devices)}",
            f"reload {kernel} code={self._one('good3', 'good7', 'traps')} probation=3 for=1s",
            f"snapshot {kernel}",
        )
        return [*made, *self._begin(what)]

    def call(self) -> list[str]:
        return [f"call {self._any()} Probe"]

    def trap(self) -> list[str]:
        return [f"send {self._any()} Trap"]

    def read(self) -> list[str]:
        consumer, count = self._one("reader", "other"), self._random.randint(1, 30)
        return self._begin(f"replies {self._any()} {consumer} count={count} for=20ms")

    def migrate(self) -> list[str]:
        return self._begin(f"migrate {self._any()} to={self._one(*self._devices)}")

    def reload(self) -> list[str]:
        code = self._one("good3", "good7", "good3", "good7", "traps", "broken")
        options = f" probation={self._random.randint(0, 5)} for={self._one('1ms', '1s', '20s')}"
        if self._chance(0.3):
            options += " convert=carry"
        if self._chance(0.15):  # which waits for messages, perhaps for ever
            options += f" at={self._random.randint(1, 60)}"
            return [f"begin {self._name('w')} reload {self._any()} code={code}{options}"]
        return self._begin(f"reload {self._any()} code={code}{options}")

    def snapshot(self) -> list[str]:
        name = f" name={self._name('s')}" if self._chance(0.3) else ""
        return self._begin(f"snapshot {self._any()}{name}")

    def rollback(self) -> list[str]:
        options = " undo_messages=yes" if self._chance(0.4) else ""
        if self._chance(0.4):
            options += " before_reload=yes"
        return self._begin(f"rollback {self._any()}{options}", probability=0.3)

    def resume(self) -> list[str]:
        return [f"resume {self._any()}{self._one('', ' skip')}"]

    def fork(self) -> list[str]:
        if len(self._kernels) > 5:
            return []
        source, name = self._any(), f"k{len(self._kernels) + 1}"
        self._kernels.append(name)
        code = f" code={self._one('good3', 'good7')}" if self._chance(0.3) else ""
        return self._begin(f"fork {source} as={name}{code}", probability=0.3)

    def stop(self) -> list[str]:
        return self._begin(f"stop {self._any()}", probability=0.3)

    def hold(self) -> list[str]:
        name = self._name("w")
        made = [f"begin {name} hold {self._any()} for={self._one('1ms', '2s')}"]
        if self._chance(0.6):
            made.append(f"step {self._random.randint(1, 200)}")
        if self._chance(0.5):
            made.append(f"cancel {name}")
        return made

    def cancel(self) -> list[str]:
        return [f"cancel {self._one(*self._begun)}"] if self._begun else []

    def await_(self) -> list[str]:
        return [f"await {self._one(*self._begun)}"] if self._begun else []

    def move(self) -> list[str]:
        steps = self._random.randint(1, 1 << self._random.randint(1, 11))
        return [self._one("settle", f"advance {self._one('1ms', '1s', '1m')}", f"step {steps}")]

    def clock(self) -> list[str]:
        return [f"clock step={self._one('-1h', '-1s', '1h')}"]

    def fault(self) -> list[str]:
        kind = self._one(
            f"{self._one(*_PLACES, '*')}.{self._one(*CALLS_OF_FILES, '*')}",
            f"{self._one(*self._devices)}.{self._one(*CALLS_OF_DEVICES)}",
        )
        nth = self._random.randint(1, 1 << self._random.randint(0, 6))
        options = f" nth={nth}" if nth > 1 else ""
        if ":" not in kind and self._chance(0.6):
            failure = self._one("crash", "crash", "full")
            options += f" failure={failure}"
            if failure == "crash":
                options += f" loss={self._one(*_LOSSES)}"
        self._recovers_in = self._random.randint(2, 8)
        return [f"fault {kind}{options}"]

    def flip(self) -> list[str]:
        """A copy for a migration writes one bit wrongly."""
        kernel, device = self._any(), self._one(*self._devices)
        moves = f"migrate {kernel} to={device}"
        return ["settle", f"fault {device}.copy_in failure=flip", moves, "disarm"]

    def chances(self) -> list[str]:
        device = self._one(*self._devices)
        return [f"fault {device}.* checkpoints.* chance={self._one(0.02, 0.1)}"]

    def disarm(self) -> list[str]:
        return ["disarm"]

    def crash(self) -> list[str]:
        self._down = True
        self._begun.clear()
        return [f"crash loss={self._one(*_LOSSES)}"]

    def close(self) -> list[str]:
        self._down = True
        self._begun.clear()
        return ["close"]

    def _restart(self) -> list[str]:
        self._down = False
        return ["restart"]

    def check(self) -> list[str]:
        self._down = False
        self._begun.clear()
        return [CHECK]


ACTIONS: Final[dict[Callable[[Drawing], Sequence[str]], float]] = {
    Drawing.send: 8,
    Drawing.burst: 5,
    Drawing.call: 2,
    Drawing.trap: 0.6,
    Drawing.read: 3,
    Drawing.migrate: 6,
    Drawing.reload: 5,
    Drawing.snapshot: 4,
    Drawing.rollback: 1.5,
    Drawing.resume: 1,
    Drawing.fork: 1,
    Drawing.stop: 0.4,
    Drawing.hold: 1.5,
    Drawing.cancel: 1,
    Drawing.await_: 1.5,
    Drawing.move: 3,
    Drawing.clock: 0.3,
    Drawing.fault: 4,
    Drawing.flip: 1,
    Drawing.chances: 0.4,
    Drawing.disarm: 1,
    Drawing.crash: 2.5,
    Drawing.close: 0.7,
    Drawing._restart: 1,
    Drawing.check: 1.2,
}


def draw(seed: int, *, length: int = 60) -> Plan:
    """Return the plan of a seed, with about ``length`` lines."""
    return Plan(seed, _with_gpus(Drawing(seed, length).lines(), Random(f"{seed}/gpus")))


def _with_gpus(lines: tuple[str, ...], random: Random) -> tuple[str, ...]:
    """Make GPUs of the first devices of some plans, and lose them now and then; host:0 is last."""
    count = len(lines[0].split()) - 1
    if count < 2 or random.random() >= GPU_SHARE:
        return lines
    gpus = random.randint(1, count - 1)

    def named(found: Match[str]) -> str:
        index = int(found[1])
        return f"cuda:{index}" if index < gpus else f"host:{index - gpus}"

    made = [re.sub(r"\bhost:(\d+)", named, line) for line in lines]
    for _ in range(random.randint(0, 3)):
        place = random.randint(_first_launch(made) + 1, len(made) - 1)
        made.insert(place, f"lose cuda:{random.randrange(gpus)}")
    return tuple(made)


def _first_launch(lines: Sequence[str]) -> int:
    return next(index for index, line in enumerate(lines) if line.startswith("launch"))
