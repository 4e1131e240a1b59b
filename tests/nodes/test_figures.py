# SPDX-License-Identifier: Apache-2.0
"""Rates and percentiles that nodes report."""

import numpy as np
import pytest

from vla_nodes.nodes.diagnostics import Percentiles, RateMeter


def test_percentiles_are_those_of_the_newest_samples_in_milliseconds() -> None:
    samples = np.random.default_rng(0).exponential(0.01, 800)
    percentiles = Percentiles(capacity=500)
    assert percentiles.values("wait") == {}
    for sample in samples:
        percentiles.add(sample)
    kept = np.sort(samples[-500:]) * 1e3
    values = percentiles.values("wait")
    assert values["wait_max_ms"] == pytest.approx(kept[-1])
    assert kept[248] <= values["wait_p50_ms"] <= kept[251]
    assert kept[474] <= values["wait_p95_ms"] <= kept[476]


def test_a_rate_counts_events_of_the_window_and_falls_to_zero() -> None:
    meter = RateMeter(window=1.0)
    assert meter.hz(0) == 0.0
    for k in range(200):
        meter.event(k * 20_000_000)
    newest = 199 * 20_000_000
    assert meter.hz(newest) == pytest.approx(50.0)
    assert meter.hz(newest + 2_000_000_000) == 0.0
