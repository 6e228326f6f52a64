"""Every test of a program runs in each dialect and form."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ringflow.device.host.program import Program
from tests.device.programs import FLAGS, FORMS, build

Build = Callable[[str], Program]


@pytest.fixture(params=[(dialect, form) for dialect in FLAGS for form in FORMS], ids="-".join)
def load(request: pytest.FixtureRequest) -> Build:
    """Return what loads a program by its file's name."""
    dialect, form = request.param
    return lambda name: build(name, dialect, form)
