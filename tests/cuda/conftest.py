"""Fixtures of the CUDA device's tests: GPUs of the stand-in, which is a test double."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cuda.standin import Standin, plug


@pytest.fixture
def gpus(request: pytest.FixtureRequest) -> Iterator[Standin]:
    """Two devices of the stand-in, or as ``@pytest.mark.parametrize("gpus", [{...}])`` says."""
    with plug(**getattr(request, "param", {})) as standin:
        yield standin
