"""Readable names of variables."""

from __future__ import annotations

import pytest

from ringflow.device.symbols import readable_names


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("counter", "counter"),
        ("_ZL3arr", "arr"),
        ("_ZN2ns3varE", "ns::var"),
        ("_ZN2ns12_GLOBAL__N_16hiddenE", "ns::hidden"),
        ("_ZN5outer5innerL4nameE", "outer::inner::name"),
        ("_ZZ4bumpvE5calls", "bump::calls"),
        ("_ZZ4waveE8launches", "wave::launches"),
        ("_ZZN2ns4moveEPKfjE4last", "ns::move::last"),
        ("_Z2tvIiE", "_Z2tvIiE"),
        ("_ZZ4takeR3objE4last", "_ZZ4takeR3objE4last"),
        ("_Z", "_Z"),
        ("_ZN2nsE4", "_ZN2nsE4"),
    ],
)
def test_a_variable_is_called_as_in_the_source(name: str, readable: str) -> None:
    """What has no simple form keeps its own."""
    assert readable_names([name]) == {name: readable}


def test_names_that_would_meet_stay_apart() -> None:
    """Two overloads' variables keep their own names; so does one that is called like another."""
    overloads = ["_ZZ4movefE4last", "_ZZ4moveiE4last"]
    assert readable_names(overloads) == {name: name for name in overloads}
    assert readable_names(["last", "_ZL4last"]) == {"last": "last", "_ZL4last": "_ZL4last"}
