"""What the demo keeps beside the engine's folder: its settings, replies and timings.

- Files of JSON lines only grow; a line that a kill cut short is cut off when the file is opened.
- A reply is recorded before it is acknowledged, once by its identity (sequence, index): together
  with the engine's at-least-once delivery that is exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import orjson

from ringflow.demo import DemoError
from ringflow.demo.plan import DEVICES
from ringflow.errors import CorruptError, UsageError
from ringflow.files import FileSystem, write_atomic
from ringflow.storage.folders import storage_errors

SETTINGS_NAME: Final = "demo.json"
REPLIES_NAME: Final = "replies.jsonl"
TIMINGS_NAME: Final = "timings.jsonl"

Identity = tuple[int, int]


def _names(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(given)


@attrs.frozen
class Settings:
    """What must be the same when a demo is resumed.

    Attributes:
        scale: 1 for a grid of about 1,000 x 1,300 cells.
        message_count: messages of the script that are sent at least.
        devices: where the kernel begins, where it moves to, and where it moves last if that is
            not the first.
    """

    scale: float = 1.0
    message_count: int = 240
    devices: tuple[str, ...] = attrs.field(default=DEVICES, converter=_names)


def holds_demo(files: FileSystem, folder: Path) -> bool:
    """Return whether a demo was begun in the folder."""
    return files.exists(folder / SETTINGS_NAME)


def keep_settings(files: FileSystem, folder: Path, settings: Settings, *, resume: bool) -> Settings:
    """Return the settings of the demo in ``folder``, writing them if it is a new one.

    Raises:
        UsageError: there is a demo already and ``resume`` is not asked for.
        CorruptError: the file with its settings can't be read.
    """
    path = folder / SETTINGS_NAME
    if not holds_demo(files, folder):
        with storage_errors("make the folder", folder):
            files.make_folder(folder)
        with storage_errors("write", path):
            write_atomic(files, path, [orjson.dumps(attrs.asdict(settings))])
        return settings
    if not resume:
        raise UsageError(
            f"folder {str(folder)!r} holds a demo already; go on with --resume, "
            "choose another folder with --out, or delete it"
        )
    try:
        return Settings(**orjson.loads(files.read(path)))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise CorruptError(f"{str(path)!r} is not readable: {error}; delete the folder") from error


class Lines:
    """A file of JSON lines that only grows; every line is durable when ``add`` returns."""

    def __init__(self, files: FileSystem, path: Path) -> None:
        data = files.read(path) if files.exists(path) else None
        whole = b"" if data is None else data[: data.rfind(b"\n") + 1]
        if data is not None and len(whole) < len(data):
            files.truncate(path, len(whole))
        try:
            self.rows: list[dict[str, Any]] = [orjson.loads(line) for line in whole.splitlines()]
        except orjson.JSONDecodeError as error:
            raise CorruptError(f"{str(path)!r} is damaged: {error}; delete the folder") from error
        self._path = path
        with storage_errors("open", path):
            self._file = files.create(path) if data is None else files.append(path)

    def add(self, row: Mapping[str, Any]) -> None:
        with storage_errors("write", self._path):
            self._file.write(orjson.dumps(row) + b"\n")
            self._file.datasync()

    def close(self) -> None:
        self._file.close()


class ReplyLog:
    """Every reply of a run, once."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.payloads: dict[Identity, bytes] = {
            (row["sequence"], row["index"]): bytes.fromhex(row["payload"]) for row in lines.rows
        }

    @property
    def count(self) -> int:
        return len(self.payloads)

    def add(self, sequence: int, index: int, payload: bytes) -> bool:
        """Record a reply durably; return whether it is new.

        Raises:
            DemoError: a reply of this identity is recorded with other bytes.
        """
        known = self.payloads.get((sequence, index))
        if known is not None and known != payload:
            raise DemoError(
                f"reply {index} to message {sequence} came again with other bytes: "
                f"{known.hex()} first, {payload.hex()} now"
            )
        if known is None:
            self._lines.add({"sequence": sequence, "index": index, "payload": payload.hex()})
            self.payloads[sequence, index] = payload
        return known is None

    def close(self) -> None:
        self._lines.close()


@attrs.frozen
class Timing:
    """What the reader of replies and the producer saw of an operation, in milliseconds.

    ``None`` where a kill before or after it took the figure away.
    """

    reply_gap_ms: float | None
    producer_gap_ms: float | None


class TimingLog:
    """The timings by operation; an operation whose end a kill cut off has none."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.timings = {
            row["operation_id"]: Timing(row["reply_gap_ms"], row["producer_gap_ms"])
            for row in lines.rows
        }

    def add(self, operation_id: str, timing: Timing) -> None:
        self.timings[operation_id] = timing
        self._lines.add({"operation_id": operation_id, **attrs.asdict(timing)})

    def close(self) -> None:
        self._lines.close()
