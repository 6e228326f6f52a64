"""Tests that need real GPUs: ``pytest -m gpu`` with one, ``pytest -m multigpu`` with two.

They are left out of every other run, in which a test double has the driver's place.
"""
