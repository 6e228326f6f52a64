"""The demo from its folder to its verdict."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import ringflow
from ringflow.demo.compare import differences, solver_errors
from ringflow.demo.pictures import draw
from ringflow.demo.plan import check_devices, plan_for
from ringflow.demo.records import (
    REPLIES_NAME,
    TIMINGS_NAME,
    Lines,
    ReplyLog,
    Settings,
    TimingLog,
    holds_demo,
    keep_settings,
)
from ringflow.demo.reference import Waves, solve
from ringflow.demo.report import Verdict, row_of, show
from ringflow.demo.seafloor import Seafloor, make_seafloor
from ringflow.demo.story import Ending, Eventful, quiet_run
from ringflow.errors import UsageError
from ringflow.files import FileSystem, SystemFiles

ENGINE_NAME: Final = "engine"
QUIET_NAME: Final = "quiet"


@attrs.frozen(kw_only=True)
class Options:
    """What the user chose; what is None is as in ``Settings``, or in the demo that goes on."""

    folder: Path
    scale: float | None = None
    message_count: int | None = None
    devices: tuple[str, ...] | None = None
    resume: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not None, by name."""
        names = [field.name for field in attrs.fields(Settings)]
        return {name: one for name in names if (one := getattr(self, name)) is not None}


async def run_demo(options: Options, console: Console) -> Verdict:
    """Run or resume the demo, print its table, and return its verdict.

    Raises:
        UsageError: the folder holds a demo and ``resume`` is not asked for, or the demo has other
            settings than those that are given; nothing was changed.
        StorageError: the folder can't be made or written.
        DemoError: something happened that ringflow promises not to happen.
    """
    files = SystemFiles()
    wished = Settings(**options.given)
    check_devices(wished.devices)
    seafloor = make_seafloor(wished.scale)
    is_new = not holds_demo(files, options.folder)
    settings = keep_settings(files, options.folder, wished, resume=options.resume)
    said = (
        f"scale {settings.scale:g}, {settings.message_count} messages and devices "
        f"{','.join(settings.devices)}"
    )
    if attrs.evolve(settings, **options.given) != settings:
        raise UsageError(
            f"the demo in {str(options.folder)!r} has {said}; leave these options away to go on "
            "with it, or choose another folder with --out"
        )
    if options.resume and is_new:
        console.print(f"no demo to go on with in {options.folder}: a new one begins")
    elif options.resume:
        console.print(f"going on with {said}")
        seafloor = make_seafloor(settings.scale)
    ny, nx = seafloor.shape
    console.print(
        f"{ny} x {nx} cells of {seafloor.dx_m:.0f} x {seafloor.dy_m:.0f} m, "
        f"steps of {seafloor.dt_s:.2f} s; folder {options.folder}"
    )
    timings = TimingLog(Lines(files, options.folder / TIMINGS_NAME))
    try:
        with _progress(console) as start:
            eventful = await _eventful(files, options.folder, seafloor, timings, settings, start)
            home = settings.devices[0]
            quiet, waves = await _quiet(files, options.folder, seafloor, home, eventful, start)
    finally:
        timings.close()
    await anyio.to_thread.run_sync(_draw, options.folder, seafloor, eventful)
    verdict = Verdict(
        rows=tuple(
            row_of(
                phase,
                status,
                timings.timings.get(status.operation_id),
                last_state_bytes=sum(region.nbytes for region in eventful.regions.values()),
            )
            for phase, status in zip(plan_for(settings.devices), eventful.operations, strict=True)
        ),
        differences=tuple(differences(eventful, quiet)),
        errors=solver_errors(eventful.regions, waves),
        message_count=len(eventful.replies),
        region_count=len(eventful.regions),
    )
    show(console, verdict)
    return verdict


Start = Callable[[str, int, int], tuple[Callable[[str], None], Callable[[int], None]]]


@contextmanager
def _progress(console: Console) -> Iterator[Start]:
    """Give a function that adds a bar and returns what to call to retitle and to move it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:

        def start(
            title: str, done: int, total: int
        ) -> tuple[Callable[[str], None], Callable[[int], None]]:
            task = progress.add_task(title, total=total, completed=done)

            def say(text: str) -> None:
                progress.update(task, description=f"{title}: {text}")

            def move(count: int) -> None:
                progress.update(task, completed=count, total=max(total, count))

            return say, move

        yield start


async def _eventful(
    files: FileSystem,
    folder: Path,
    seafloor: Seafloor,
    timings: TimingLog,
    settings: Settings,
    start: Start,
) -> Ending:
    log = ReplyLog(Lines(files, folder / REPLIES_NAME))
    say, move = start("eventful run", log.count, settings.message_count)
    say("opening the engine")
    try:
        async with ringflow.open_engine(folder / ENGINE_NAME, devices=settings.devices) as engine:
            run = Eventful(
                engine,
                seafloor,
                timings=timings,
                message_count=settings.message_count,
                devices=settings.devices,
                say=say,
            )
            ending = await run.run(log, move)
            say("done")
            return ending
    finally:
        log.close()


async def _quiet(
    files: FileSystem,
    folder: Path,
    seafloor: Seafloor,
    home: str,
    eventful: Ending,
    start: Start,
) -> tuple[Ending, Waves]:
    """Run the quiet engine and, beside it in a thread, the numpy solver."""
    quiet_folder = folder / QUIET_NAME
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(quiet_folder, ignore_errors=True))
    files.make_folder(quiet_folder)
    log = ReplyLog(Lines(files, quiet_folder / REPLIES_NAME))
    say, move = start("quiet run", 0, eventful.last_number)
    say("and the numpy solver")
    solved: list[Waves] = []

    async def run_solver() -> None:
        solved.append(
            await anyio.to_thread.run_sync(
                lambda: solve(
                    seafloor, last_number=eventful.last_number, absorb_at=eventful.absorb_at
                )
            )
        )

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(run_solver)
            quiet = await quiet_run(
                quiet_folder / ENGINE_NAME,
                seafloor,
                log,
                home=home,
                last_number=eventful.last_number,
                absorb_at=eventful.absorb_at,
                on_reply=move,
            )
    finally:
        log.close()
    say("done")
    return quiet, solved[0]


def _draw(folder: Path, seafloor: Seafloor, ending: Ending) -> None:
    steps = int(ending.regions["progress"][0])
    draw(
        folder,
        seafloor,
        height=ending.regions["height"],
        maximum=ending.regions["maximum"],
        time_s=steps * seafloor.dt_s,
    )
