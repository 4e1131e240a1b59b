# SPDX-License-Identifier: Apache-2.0
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from vla_nodes.monitoring.energy_drift import WINDOW, EnergyDrift

QUANTILES = tuple(np.linspace(0.0, 1.0, 101))
"""Of energies that are uniform: one in ten is above 0.9."""


def drift(energies: object) -> EnergyDrift:
    drift = EnergyDrift(QUANTILES)
    for energy in energies:  # type: ignore[attr-defined]
        drift.add(energy)
    return drift


def correlated(seed: int, count: int, chunks: float) -> np.ndarray:
    """Uniform, with normal scores whose correlation falls to 1/e within some chunks."""
    random = np.random.default_rng(seed)
    stays = math.exp(-1.0 / chunks)
    score, scores = random.normal(), []
    for _ in range(count):
        score = stays * score + math.sqrt(1 - stays**2) * random.normal()
        scores.append(score)
    return np.array([0.5 * (1 + math.erf(score / math.sqrt(2))) for score in scores])


def test_of_nothing_nothing_is_said() -> None:
    empty = drift([])
    assert not empty.drifted
    assert math.isnan(empty.high)
    assert all(map(math.isnan, empty.percentiles))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2 * WINDOW), st.integers(0, 100))
def test_a_window_drifts_where_chance_would_hardly_make_so_many_high(
    count: int, share: int
) -> None:
    spread = [0.95 if i * share % 100 < share else 0.5 for i in range(count)]
    found = drift(spread)
    last = spread[-WINDOW:]
    high = sum(energy > 0.9 for energy in last) / len(last)
    assert found.high == pytest.approx(high)
    blocks = len(last) // 60
    chance = binom.sf(math.floor(high * blocks + 1e-9) - 1, blocks, 0.1) if blocks else 1.0
    assert found.drifted == (chance < 5e-4)
    assert found.percentiles == pytest.approx(np.percentile(last, (50, 95)))


def test_the_fewest_chunks_that_drift_are_240() -> None:
    drifted = [drift([1.0] * count).drifted for count in range(300)]
    assert drifted == [False] * 240 + [True] * 60


@pytest.mark.parametrize("chunks", [0.1, 30.0])
def test_hours_that_do_not_drift_are_left_alone_however_often_they_are_looked_at(
    chunks: float,
) -> None:
    for seed in range(3):
        found = EnergyDrift(QUANTILES)
        for i, energy in enumerate(correlated(seed, 36_000, chunks)):
            found.add(energy)
            assert i % 20 or not found.drifted  # as often as twice a second


@pytest.mark.parametrize("chunks", [0.1, 10.0])
def test_energies_that_are_mostly_high_drift_within_a_window_and_recover(chunks: float) -> None:
    for seed in range(10):
        usual, worse = correlated(seed, WINDOW, chunks), correlated(seed + 50, WINDOW, chunks)
        states = [drift(usual).drifted]
        found = drift([*usual, *(0.85 + worse)])
        states.append(found.drifted)
        for energy in correlated(seed + 90, WINDOW, chunks):
            found.add(energy)
        states.append(found.drifted)
        assert states == [False, True, False]


def test_energies_at_the_quantile_are_not_high() -> None:
    assert drift([QUANTILES[90]] * 50).high == 0.0
    assert drift([math.nextafter(QUANTILES[90], 1.0)] * 50).high == 1.0


def test_a_window_remembers_no_more_than_its_size() -> None:
    energies = [*([1.0] * WINDOW), *([0.0] * WINDOW)]
    shares = [drift(energies[:count]).high for count in (WINDOW, WINDOW * 5 // 4, 2 * WINDOW)]
    assert shares == [1.0, 0.75, 0.0]
    assert all(before > after for before, after in pairwise(shares))
