# SPDX-License-Identifier: Apache-2.0
"""Baselines against cases that can be worked out by hand, and against sums over all frames."""

import math

import numpy as np
import pytest
from labelled_samples import make_frames

from vla_training.evaluation.value_baselines import CONSTANT, ELAPSED_TIME, fit_baselines
from vla_training.evaluation.value_metrics import measure

ATOMS = -1 + 0.005 * np.arange(201)


def test_a_return_that_never_changes_is_all_that_is_expected():
    frames = make_frames((3, 5), outcomes="ss", tasks="aa")
    frames.returns[:] = -0.503  # 0.6 on atom 99, 0.4 on atom 100
    for baseline in fit_baselines(frames, frames).values():
        assert (baseline.smoothing.time, baseline.smoothing.value) == (0, 0)
        uniform = baseline.smoothing.uniform
        assert uniform == 1e-4
        found = baseline.predict(frames)
        expected = np.full(201, uniform / 201)
        expected[99] += 0.6 * (1 - uniform)
        expected[100] += 0.4 * (1 - uniform)
        np.testing.assert_allclose(found, np.tile(expected, (8, 1)), rtol=1e-4)


def test_the_constant_is_the_mean_return_of_a_task():
    train = make_frames((30, 25, 40, 35), outcomes="sfsf", tasks="aabb")
    rest = make_frames((33, 28, 44, 31), outcomes="sfsf", tasks="aabb")
    baseline = fit_baselines(train, rest)[CONSTANT]
    found = baseline.predict(rest)
    for task in "ab":
        rows = found[rest.task == task]
        assert (rows == rows[0]).all()
        share = baseline.smoothing.uniform
        mean = (1 - share) * train.returns[train.task == task].mean() + share * -0.5
        assert rows[0] @ ATOMS == pytest.approx(mean, abs=2e-3)


def test_where_time_says_everything_elapsed_time_knows_it():
    frames = make_frames((40,) * 4, outcomes="ssss", tasks="aaaa")
    fitted = fit_baselines(frames.take(frames.episode < 2), frames.take(frames.episode == 2))
    left = frames.take(frames.episode == 3)
    known = measure(left, fitted[ELAPSED_TIME].predict(left))
    constant = measure(left, fitted[CONSTANT].predict(left))
    assert known.mae < 1e-3
    assert known.rank_correlation == pytest.approx(1.0)
    assert known.loss < 0.8 < 3.0 < constant.loss


def test_smoothing_is_a_mean_over_frames_weighted_by_their_distance():
    rng = np.random.default_rng(0)
    lengths = tuple(rng.integers(30, 34, 14).tolist())
    frames = make_frames(lengths, outcomes="ssf" * 4 + "sf", tasks="ab" * 7)
    frames.returns[:] = (frames.returns + rng.normal(0, 0.05, len(frames))).clip(-1, 0)
    train, rest = frames.take(frames.episode < 8), frames.take(frames.episode >= 8)
    baseline = fit_baselines(train, rest)[ELAPSED_TIME]
    smoothing = baseline.smoothing
    assert smoothing.time > 0
    assert smoothing.value > 0
    found = baseline.predict(rest)
    for row in range(0, len(rest), 17):
        same = train.take(train.task == rest.task[row])
        time = min(rest.frame[row], same.frame.max())
        mass = np.zeros(201)
        for place, y in zip(same.frame, same.returns, strict=True):
            away = abs(int(place) - int(time))
            if away <= int(4 * smoothing.time + 0.5):
                near = math.exp(-0.5 * (away / smoothing.time) ** 2)
                below = min(199, int((y + 1) / 0.005))
                share = (y - ATOMS[below]) / 0.005
                for atom, weight in ((below, 1 - share), (below + 1, share)):
                    mass += near * weight * bump(atom, smoothing.value)
        mass = (1 - smoothing.uniform) * mass / mass.sum() + smoothing.uniform / 201
        np.testing.assert_allclose(found[row], mass, rtol=1e-3, atol=1e-7)


def bump(atom, width):
    """A bell around an atom; what falls off an end is mirrored there."""
    mass = np.zeros(201)
    for step in range(-int(4 * width + 0.5), int(4 * width + 0.5) + 1):
        place = atom + step
        place = -1 - place if place < 0 else 401 - place if place > 200 else place
        mass[place] += math.exp(-0.5 * (step / width) ** 2)
    return mass / mass.sum()


def test_the_smoothing_that_suits_the_validation_split_is_chosen():
    """Validation returns lie 4 atoms from those trained on: only a wide bump reaches them."""
    train = make_frames((50, 50), outcomes="ss", tasks="aa")
    near, far = (train.take(train.episode == 0) for _ in range(2))
    far.returns[:] = far.returns - 0.02
    for name in (CONSTANT, ELAPSED_TIME):
        narrow = fit_baselines(train, near)[name].smoothing
        wide = fit_baselines(train, far)[name].smoothing
        assert (wide.value, wide.uniform) > (narrow.value, narrow.uniform)
    fitted = fit_baselines(train, far)[ELAPSED_TIME]
    assert fitted.smoothing.time >= 2 or fitted.smoothing.value >= 2


def test_a_task_that_was_not_trained_with_is_given_all_tasks_together():
    train = make_frames((10, 20), outcomes="ss", tasks="ab")
    other = make_frames((5,), outcomes="s", tasks="c")
    fitted = fit_baselines(train, train)[CONSTANT]
    share = fitted.smoothing.uniform
    mean = (1 - share) * train.returns.mean() + share * -0.5
    assert fitted.predict(other) @ ATOMS == pytest.approx([mean] * 5, abs=2e-3)


def test_times_beyond_the_longest_episode_are_as_its_end():
    train = make_frames((10, 12), outcomes="ss", tasks="aa")
    longer = make_frames((40,), outcomes="s", tasks="a")
    found = fit_baselines(train, train)[ELAPSED_TIME].predict(longer)
    assert (found[12:] == found[11]).all()
    assert (found[10] != found[11]).any()


def test_no_return_is_impossible():
    train = make_frames((10, 12), outcomes="ss", tasks="aa")
    other = make_frames((30,), outcomes="f", tasks="a")
    for baseline in fit_baselines(train, train).values():
        found = baseline.predict(other)
        assert found.min() > 1e-7
        np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)
        assert measure(other, found).loss < 20


def test_a_task_that_begins_late_in_its_episodes_has_a_baseline_at_every_time():
    """Episodes may change their task: of the second one there are no early frames to count."""
    frames = make_frames((30, 30, 30), outcomes="sss", tasks="aaa")
    frames.task[frames.frame >= 20] = "b"
    earlier = frames.take(frames.episode == 2)
    earlier.task[earlier.frame >= 10] = "b"
    for baseline in fit_baselines(frames.take(frames.episode < 2), earlier).values():
        found = baseline.predict(earlier)
        np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)
        assert found.min() > 0
