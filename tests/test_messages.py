"""Typed messages as bytes: what doesn't fit is refused, and classes are not mixed up."""

from __future__ import annotations

from typing import Any

import pytest

import ringflow
from ringflow.errors import SpecError
from ringflow.messages import pack, unpack


@ringflow.message(1)
class Pair:
    small: ringflow.u8
    large: ringflow.f64


@ringflow.message(2)
class Empty:
    pass


def test_a_message_comes_back_as_often_as_it_is_packed() -> None:
    """Padding is zero bytes; a message without fields has no bytes."""
    for small in (0, 255):
        type_id, payload = pack(Pair(small, 0.5))
        assert (type_id, payload[:8]) == (1, bytes((small, *bytes(7))))
        assert unpack(Pair, payload) == Pair(small, 0.5)
    assert pack(Empty()) == (2, b"")
    assert unpack(Empty, b"") == Empty()


@pytest.mark.parametrize("value", [-1, 256, 1.5, None])
def test_a_value_that_does_not_fit_is_refused_by_name(value: Any) -> None:
    """Nothing is cut off to make it fit."""
    with pytest.raises(SpecError, match=r"Pair\(.*0.5\) does not fit its fields"):
        pack(Pair(value, 0.5))


def test_a_payload_of_another_size_is_refused() -> None:
    """One byte too many says that the types differ."""
    with pytest.raises(SpecError, match="payload has 17 bytes, Pair has 16"):
        unpack(Pair, bytes(17))


def test_a_subclass_is_a_message_of_its_own_or_none() -> None:
    """What is kept with a class is never that of its base."""
    pack(Pair(1, 2.0))

    class Undecorated(Pair):
        pass

    @ringflow.message(3)
    class Longer(Pair):
        more: ringflow.u32

    with pytest.raises(SpecError, match="decorate it"):
        pack(Undecorated(1, 2.0))
    type_id, payload = pack(Longer(1, 2.0, 3))
    assert (type_id, len(payload)) == (3, 24)
    assert unpack(Longer, payload) == Longer(1, 2.0, 3)
