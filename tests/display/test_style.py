# SPDX-License-Identifier: Apache-2.0
"""Texts from outside become one short printable line, numbers a few characters."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_nodes.display.style import figure, printable


@given(st.text(), st.integers(1, 50))
def test_text_becomes_one_bounded_printable_line(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert "  " not in line


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=30))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert printable(text, 30) == text


def test_what_was_cut_shows() -> None:
    assert printable("put the cube away", 8) == "put the…"
    assert printable("a" * 10_000_000, 4) == "aaa…"
    assert printable(" " * 10_000 + "a", 4) == "…"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "-"),
        (0.456, "0.46"),
        (-1e-9, "-0.00"),
        (math.inf, "inf"),
        (-2.5e300, "-2.5e+300"),
    ],
)
def test_a_figure_is_short_whatever_its_size(value: float, shown: str) -> None:
    assert figure(value, ".2f") == shown
