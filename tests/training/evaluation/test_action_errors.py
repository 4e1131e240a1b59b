# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vla_training.evaluation.action_errors import (
    ActionErrors,
    best_candidate,
    held_position,
    mean_chunk,
)

RNG = np.random.default_rng(3)


def chunks(batch=6, steps=5, joints=3):
    """Predicted, recorded, and padding that begins anywhere from the second step on."""
    predicted, recorded = RNG.normal(size=(2, batch, steps, joints))
    is_pad = np.arange(steps) >= RNG.integers(1, steps, batch)[:, None]
    return predicted, recorded, is_pad


def test_errors_are_those_of_a_loop_over_every_action():
    predicted, recorded, is_pad = chunks()
    errors = ActionErrors.of(predicted, recorded, is_pad)
    for step in range(5):
        rows = [row for row in range(6) if not is_pad[row, step]]
        assert errors.count[step] == len(rows)
        for joint in range(3):
            off = [predicted[row, step, joint] - recorded[row, step, joint] for row in rows]
            expected = (
                (np.mean(np.abs(off)), np.mean(np.square(off)) ** 0.5) if off else (np.nan,) * 2
            )
            found = errors.mae[step, joint], errors.rmse[step, joint]
            assert found == pytest.approx(expected, nan_ok=True)


def test_over_all_steps_every_action_counts_the_same():
    predicted, recorded, is_pad = chunks()
    errors = ActionErrors.of(predicted, recorded, is_pad).over_steps()
    off = (predicted - recorded)[~is_pad]
    assert errors.mae == pytest.approx(np.abs(off).mean(0)[None])
    assert errors.rmse == pytest.approx(np.square(off).mean(0)[None] ** 0.5)


def test_what_stands_in_padding_changes_nothing():
    predicted, recorded, is_pad = chunks()
    before = ActionErrors.of(predicted, recorded, is_pad)
    predicted[is_pad], recorded[is_pad] = np.nan, np.inf
    after = ActionErrors.of(predicted, recorded, is_pad)
    assert np.array_equal(before.mae, after.mae, equal_nan=True)
    assert np.array_equal(before.rmse, after.rmse, equal_nan=True)


def test_batches_add_up():
    predicted, recorded, is_pad = chunks(9)
    whole = ActionErrors.of(predicted, recorded, is_pad)
    parts = ActionErrors.none(5, 3)
    for rows in (slice(0, 4), slice(4, 5), slice(5, 9)):
        parts += ActionErrors.of(predicted[rows], recorded[rows], is_pad[rows])
    assert parts.count.tolist() == whole.count.tolist()
    assert parts.mae == pytest.approx(whole.mae, nan_ok=True)
    assert parts.rmse == pytest.approx(whole.rmse, nan_ok=True)


def test_other_units_are_those_of_values_in_them():
    predicted, recorded, is_pad = chunks()
    factors = np.array([0.5, 2.0, 30.0])
    scaled = ActionErrors.of(predicted, recorded, is_pad).scaled(factors)
    direct = ActionErrors.of(predicted * factors, recorded * factors, is_pad)
    assert scaled.mae == pytest.approx(direct.mae, nan_ok=True)
    assert scaled.rmse == pytest.approx(direct.rmse, nan_ok=True)


def test_a_step_that_no_chunk_reaches_has_no_error():
    errors = ActionErrors.of(np.ones((2, 2, 1)), np.zeros((2, 2, 1)), np.array([[False, True]] * 2))
    assert errors.mae[0] == 1.0
    assert np.isnan(errors.mae[1])
    assert np.isnan(errors.rmse[1])


def test_the_best_candidate_is_found_by_trying_all():
    _, recorded, is_pad = chunks()
    candidates = RNG.normal(size=(4, 6, 5, 3))
    factors = np.array([1.0, 10.0, 0.1])
    best = best_candidate(candidates, recorded, is_pad, factors)
    for row in range(6):
        wanted = ~is_pad[row]
        tried = [
            float((np.abs(c[row] - recorded[row])[wanted] * factors).mean()) for c in candidates
        ]
        assert np.array_equal(best[row], candidates[int(np.argmin(tried)), row])


def test_the_mean_chunk_is_that_of_a_loop_over_frames():
    lengths, steps = (4, 1, 7), 5
    actions = RNG.normal(size=(sum(lengths), 2))
    ends = np.repeat(np.cumsum(lengths), lengths)
    for step, mean in enumerate(mean_chunk(actions, ends, steps)):
        reached = [actions[row + step] for row, end in enumerate(ends) if row + step < end]
        assert mean == pytest.approx(np.mean(reached, axis=0))


def test_a_step_beyond_every_episode_has_no_mean():
    mean = mean_chunk(np.ones((3, 1)), np.array([2, 2, 3]), 3)
    assert mean[:2].tolist() == [[1.0], [1.0]]
    assert np.isnan(mean[2])


def test_the_position_that_is_held_is_found_by_name():
    state, actions = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 4, 2))
    names = ("pan.position", "grip", "lift")
    held = held_position(state, names, actions, ("lift.pos", "pan"))
    for row in range(2):
        for step in range(4):
            assert held[row, step].tolist() == [state[row, 2], state[row, 0]]


def test_where_no_position_is_known_the_first_action_is_held():
    state, actions = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 4, 2))
    held = held_position(state, ("pan", "grip", "lift"), actions, ("lift", "x"))
    assert np.array_equal(held, actions[:, :1].repeat(4, axis=1))
