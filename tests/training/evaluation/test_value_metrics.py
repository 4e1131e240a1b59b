# SPDX-License-Identifier: Apache-2.0
"""Metrics against loops over frames and pairs, scipy's tests and the models' own read-outs."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from labelled_samples import make_frames
from scipy.stats import mannwhitneyu, pearsonr

from vla_nodes.models.c51 import expected_value, quantiles, value_loss
from vla_training.evaluation.value_metrics import LEVELS, area_under_curve, measure

ATOMS = -1 + 0.005 * np.arange(201)


def random_logits(frames, seed=0):
    return np.random.default_rng(seed).normal(scale=3.0, size=(len(frames), 201))


def softmax(logits):
    mass = np.exp(logits - logits.max(-1, keepdims=True))
    return mass / mass.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def frames():
    return make_frames((7, 12, 30, 5, 21, 40), outcomes="sfsufs", tasks="aabbab")


@pytest.fixture(scope="module")
def logits(frames):
    return random_logits(frames)


@pytest.fixture(scope="module")
def metrics(frames, logits):
    return measure(frames, softmax(logits).astype(np.float32))


def test_loss_and_error_are_those_of_the_training(frames, logits, metrics):
    stacked, returns = torch.from_numpy(logits), torch.from_numpy(frames.returns)
    assert metrics.frames == len(frames)
    assert metrics.loss == pytest.approx(float(value_loss(stacked, returns).mean()), rel=1e-5)
    expected = (expected_value(stacked) - returns).abs().mean()
    assert metrics.mae == pytest.approx(float(expected), abs=1e-6)


def test_loss_is_that_of_a_sum_over_atoms(frames, logits, metrics):
    total = 0.0
    for y, p in zip(frames.returns, softmax(logits), strict=True):
        below = max(k for k in range(200) if ATOMS[k] <= y + 1e-12)
        share = (y - ATOMS[below]) / 0.005
        total -= (1 - share) * math.log(p[below]) + share * math.log(p[below + 1])
    assert metrics.loss == pytest.approx(total / len(frames), rel=1e-5)


def test_top_counts_frames_whose_nearest_atom_is_among_the_likeliest(frames):
    rng = np.random.default_rng(1)
    nearest = [int(np.abs(ATOMS - y).argmin()) for y in frames.returns]
    probabilities, places = [], []
    for atom in nearest:
        place = int(rng.integers(8))
        order = rng.permutation([k for k in range(201) if k != atom]).tolist()
        order.insert(place, atom)
        mass = np.empty(201)
        mass[order] = np.arange(201, 0, -1)
        probabilities.append(mass / mass.sum())
        places.append(place)
    found = measure(frames, np.array(probabilities))
    assert found.top1 == np.mean([place == 0 for place in places])
    assert found.top5 == np.mean([place < 5 for place in places])
    assert 0 < found.top1 < found.top5 < 1


def test_a_prediction_that_prefers_no_atom_hits_by_chance_only(frames):
    found = measure(frames, np.full((len(frames), 201), 1 / 201))
    assert found.top1 == found.top5 == 0.0
    assert found.loss == pytest.approx(math.log(201))


def test_calibration_is_how_often_a_quantile_holds(frames, logits, metrics):
    table = quantiles(torch.from_numpy(softmax(logits)), torch.tensor(LEVELS)).double().numpy()
    for level, column, found in zip(LEVELS, table.T, metrics.calibration, strict=True):
        held = np.mean(frames.returns <= column + 1e-6)
        assert found == pytest.approx(held, abs=1e-12), level
    distance = np.mean([abs(f - q) for f, q in zip(metrics.calibration, LEVELS, strict=True)])
    assert metrics.calibration_error == pytest.approx(distance)


def test_returns_drawn_from_their_predictions_are_calibrated():
    frames = make_frames((4000,), outcomes="s", tasks="a")
    rng = np.random.default_rng(3)
    centre, width = rng.uniform(-0.8, -0.2, len(frames)), rng.uniform(0.02, 0.2, len(frames))
    mass = np.exp(-0.5 * ((ATOMS - centre[:, None]) / width[:, None]) ** 2)
    mass /= mass.sum(-1, keepdims=True)
    drawn = [ATOMS[min(200, np.searchsorted(p.cumsum(), rng.uniform()))] for p in mass]
    frames.returns[:] = np.array(drawn) + rng.uniform(-0.005, 0, len(frames))
    frames.returns.clip(-1, 0, out=frames.returns)
    found = measure(frames, mass)
    assert found.calibration == pytest.approx(LEVELS, abs=0.03)
    assert found.calibration_error < 0.02


def test_rank_correlation_is_that_of_ranks_counted_one_by_one(frames, logits, metrics):
    values = softmax(logits) @ ATOMS
    found = []
    for number, outcome in enumerate("sfsufs"):
        if outcome == "s":
            ours = values[frames.episode == number].tolist()
            ranks = [sum(other < value for other in ours) for value in ours]
            found.append(pearsonr(ranks, range(len(ours))).statistic)
    assert metrics.rank_correlation == pytest.approx(np.mean(found))
    assert metrics.ordered == 0.0


def test_episodes_in_order_are_counted(frames):
    rising = softmax(-(((ATOMS - (-0.9 + 0.02 * frames.frame)[:, None]) / 0.05) ** 2))
    rising[frames.episode == 2] = rising[frames.episode == 2][::-1]
    found = measure(frames, rising)
    assert found.ordered == pytest.approx(2 / 3)
    assert found.rank_correlation == pytest.approx(1 / 3)


def test_a_value_that_never_changes_puts_nothing_in_order(frames):
    found = measure(frames, np.full((len(frames), 201), 1 / 201))
    assert found.rank_correlation == found.ordered == 0.0
    assert found.separation.final == 0.5


def test_areas_are_shares_of_pairs(frames, logits, metrics):
    values = softmax(logits) @ ATOMS
    final, quarter = {}, {}
    for number, outcome in enumerate("sfsufs"):
        ours = values[frames.episode == number].tolist()
        final.setdefault(outcome, []).append(ours[-1])
        late = [value for k, value in enumerate(ours) if k >= 0.75 * len(ours)]
        quarter.setdefault(outcome, []).append(sum(late) / len(late))
    for found, scores in (
        (metrics.separation.final, final),
        (metrics.separation.last_quarter, quarter),
    ):
        pairs = [high > low for high, low in product(scores["s"], scores["f"])]
        assert found == pytest.approx(sum(pairs) / len(pairs))
    counts = metrics.separation
    assert (counts.successes, counts.failures, counts.unknown) == (3, 2, 1)


@pytest.mark.parametrize("seed", range(5))
def test_equal_scores_count_half(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(4, size=20).astype(float), np.arange(20) % 3 == 0
    pairs = list(product(scores[positive], scores[~positive]))
    counted = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert area_under_curve(scores, positive) == pytest.approx(counted)
    statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert area_under_curve(scores, positive) == pytest.approx(statistic / len(pairs))


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ("sss", "no failure among 3 episodes"),
        ("fuf", "no success among 2 episodes"),
        ("uuu", "no episode's outcome is known"),
    ],
)
def test_one_class_only_has_no_area_and_says_why(outcomes, reason):
    frames = make_frames((4, 5, 6), outcomes=outcomes, tasks="aaa")
    found = measure(frames, softmax(random_logits(frames)))
    assert found.separation.final is found.separation.last_quarter is None
    assert found.separation.missing == reason
    assert found.separation.unknown == outcomes.count("u")
    assert (found.rank_correlation is None) == ("s" not in outcomes)


def test_one_frame_is_enough():
    frames = make_frames((1,), outcomes="s", tasks="a")
    found = measure(frames, softmax(random_logits(frames)))
    assert found.rank_correlation is None
    assert math.isfinite(found.loss)


def test_what_float32_rounds_to_nothing_costs_much_but_not_everything(frames):
    certain = np.zeros((len(frames), 201), np.float32)
    certain[:, 0] = 1.0
    assert 50 < measure(frames, certain).loss < 100


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.5])
def test_what_is_no_distribution_is_refused_with_its_place(frames, logits, wrong):
    probabilities = softmax(logits)
    probabilities[10, 3] = wrong
    with pytest.raises(ValueError, match="frame 3 of episode 1 is no distribution"):
        measure(frames, probabilities)


def test_logits_in_place_of_probabilities_are_refused(frames, logits):
    with pytest.raises(ValueError, match="no distribution"):
        measure(frames, np.abs(logits))


@pytest.mark.parametrize("shape", [(3, 201), (115, 200), (115,)])
def test_other_shapes_are_refused(frames, shape):
    with pytest.raises(ValueError, match="expected"):
        measure(frames, np.ones(shape))


@pytest.mark.parametrize("wrong", [math.nan, 0.01, -1.01])
def test_returns_that_are_no_values_are_refused(frames, logits, wrong):
    frames = frames.take(np.arange(len(frames)))
    frames.returns[4] = wrong
    with pytest.raises(ValueError, match="is no value"):
        measure(frames, softmax(logits))
