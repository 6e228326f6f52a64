"""Tests that need real GPUs: ``pytest -m gpu`` with one, ``pytest -m multigpu`` with two.

They are left out of every other run, in which a test double stands in for the driver.
"""

from __future__ import annotations

import re

_ASKED = re.compile(r"(multi)?gpu( or (multi)?gpu)?\Z")


def asked_for(mark_expression: str) -> bool:
    """Whether ``pytest -m EXPRESSION`` chooses these tests only: the driver is the real one."""
    return _ASKED.match(mark_expression.strip()) is not None
