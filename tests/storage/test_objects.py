"""The content-addressed store: durable, idempotent, verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from ringflow.errors import CorruptError, NotFoundError, StorageError, UsageError
from ringflow.files import OpenFile, SystemFiles
from ringflow.storage import ObjectStore


def test_put_names_bytes_by_their_sha256(folder: Path) -> None:
    """The name is the digest, and get gives the bytes back."""
    store = ObjectStore(folder / "objects")
    digest = store.put(b"source")
    assert digest == hashlib.sha256(b"source").hexdigest()
    assert store.get(digest) == b"source"
    assert store.exists(digest)
    assert store.digests() == (digest,)


def test_put_is_idempotent(folder: Path) -> None:
    """The same bytes twice are one object."""
    store = ObjectStore(folder)
    array = np.arange(5, dtype=np.int32)
    assert store.put(array) == store.put(array.tobytes()) == store.put(memoryview(array.tobytes()))
    assert len(list(folder.iterdir())) == 1
    assert store.get(store.put(b"")) == b""


def test_damaged_object_is_corrupt_until_it_is_put_again(folder: Path) -> None:
    """Damage is never handed out; the right bytes mend it."""
    store = ObjectStore(folder)
    digest = store.put(b"source")
    (folder / digest).write_bytes(b"sauce!")
    with pytest.raises(CorruptError, match=digest):
        store.get(digest)
    assert store.put(b"source") == digest
    assert store.get(digest) == b"source"


def test_missing_and_misnamed_objects(folder: Path) -> None:
    """A digest that is none can't reach other files."""
    store = ObjectStore(folder)
    with pytest.raises(NotFoundError):
        store.get("0" * 64)
    for name in ("../journal", "0" * 63, "G" * 64, "0" * 64 + "\n"):
        with pytest.raises(UsageError):
            store.get(name)
        with pytest.raises(UsageError):
            store.exists(name)
    assert store.digests() == ()


def test_leftovers_are_no_objects(folder: Path) -> None:
    """A crashed put's temporary file is not listed."""
    store = ObjectStore(folder)
    digest = store.put(b"a")
    (folder / (digest + ".tmp")).write_bytes(b"")
    assert store.digests() == (digest,)


def test_systems_errors_are_storage_errors(tmp_path: Path) -> None:
    """What the disk refuses is told in our words."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not store object"):
        ObjectStore(tmp_path / "file").put(b"a")


def test_threads_may_put_the_same_bytes_at_once(folder: Path) -> None:
    """A second put waits for the first: it must not take over its temporary file."""
    files = SystemFiles()
    second: list[Thread] = []

    class Interrupting(SystemFiles):
        def create(self, path: Path) -> OpenFile:
            file = super().create(path)
            if not second:
                second.append(Thread(target=store.put, args=(b"data",)))
                second[0].start()
                second[0].join(0.05)  # it would end here if it did not wait
                assert second[0].is_alive()
            return file

    store = ObjectStore(folder, files=Interrupting())
    digest = store.put(b"data")
    second[0].join()
    assert store.get(digest) == b"data"
    assert files.names(folder) == [digest]
