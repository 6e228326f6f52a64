"""What was measured between two devices, and what follows from it."""

from __future__ import annotations

import pytest

from ringflow.rates import TransferRates


def test_two_sizes_give_latency_and_bandwidth() -> None:
    """One transfer gives a bandwidth only; a smaller or larger one the line through both."""
    rates = TransferRates()
    assert rates.estimate("cuda:0", "cuda:1") is None
    rates.record("cuda:0", "cuda:1", path="nvlink", size_bytes=1000, taken_s=3.0)
    one = rates.estimate("cuda:0", "cuda:1")
    assert one is not None
    assert (one.path, one.latency_s) == ("nvlink", 0.0)
    assert one.transfer_s(2000) == pytest.approx(6.0)
    rates.record("cuda:0", "cuda:1", path="nvlink", size_bytes=3000, taken_s=5.0)
    both = rates.estimate("cuda:0", "cuda:1")
    assert both is not None
    assert both.bandwidth == pytest.approx(1000.0)
    assert both.latency_s == pytest.approx(2.0)
    assert both.transfer_s(500) == pytest.approx(2.5)


def test_the_way_back_is_another_pair() -> None:
    """What goes down fast may come up slowly."""
    rates = TransferRates()
    rates.record("a", "b", path="host", size_bytes=10, taken_s=1.0)
    assert rates.estimate("b", "a") is None


def test_another_path_starts_anew() -> None:
    """Times over NVLink say nothing of copies that go through the host."""
    rates = TransferRates()
    rates.record("a", "b", path="nvlink", size_bytes=1000, taken_s=0.001)
    rates.record("a", "b", path="staged", size_bytes=500, taken_s=1.0)
    now = rates.estimate("a", "b")
    assert now is not None
    assert (now.path, now.bandwidth) == ("staged", 500.0)


def test_nothing_teaches_nothing_and_a_device_is_forgotten() -> None:
    """No division by a time of zero; a device that goes takes its times along."""
    rates = TransferRates()
    rates.record("a", "b", path="host", size_bytes=0, taken_s=1.0)
    rates.record("a", "b", path="host", size_bytes=10, taken_s=0.0)
    assert rates.estimate("a", "b") is None
    rates.record("a", "b", path="host", size_bytes=10, taken_s=1.0)
    rates.record("c", "b", path="host", size_bytes=10, taken_s=1.0)
    rates.forget("a")
    assert rates.estimate("a", "b") is None
    assert rates.estimate("c", "b") is not None
