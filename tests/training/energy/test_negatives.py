# SPDX-License-Identifier: Apache-2.0
"""Negatives of every kind, held against what was recorded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_training.data.errors import DataError
from vla_training.energy.chunk_table import ChunkTable
from vla_training.energy.energy_set import EnergyBatch
from vla_training.energy.negative_settings import KINDS, NegativeSettings
from vla_training.energy.negatives import negatives

T, A = 4, 3
LENGTHS = (16, 9, 6)  # of the episodes


def make_table(texts=(0, 1, 0)):
    """Three episodes with a text each; the first has a break before its tenth frame."""
    count, ends = sum(LENGTHS), np.cumsum(LENGTHS)
    episode = np.repeat(np.arange(3), LENGTHS)
    end = ends[episode]
    end[:9] = 9
    return ChunkTable(
        actions=np.random.default_rng(0).normal(0, (0.5, 1, 2), (count, A)).astype(np.float32),
        end=end,
        episode=episode,
        text=np.array(texts)[episode],
        texts=("reach", "grasp", "lift"),
        chunk=T,
    )


def make_batch(actions, rows, samples=None, layers=None):
    count = len(actions)
    return EnergyBatch(
        hidden=torch.zeros(count, 2, 4, dtype=torch.bfloat16),
        ignore=torch.zeros(count, 2, dtype=torch.bool),
        actions=torch.from_numpy(actions),
        rows=rows,
        tasks=["stack"] * count,
        subtasks=[""] * count,
        samples=samples,
        layers=layers,
    )


def rngs_of(rows, seed=0):
    return [np.random.default_rng((seed, row)) for row in np.asarray(rows).tolist()]


def make(kind, table, rows, seed=0, **changes):
    rows = np.asarray(rows)
    generator = torch.Generator().manual_seed(1)
    own = torch.randn(table.chunk, 2, T, A, generator=generator)[: len(rows)]
    batch = make_batch(table.at(rows), rows, samples=own, layers=own[:, :1])
    return negatives(kind, batch, table, rows, rngs_of(rows, seed), NegativeSettings(**changes))


TABLE = make_table()
WHOLE = np.flatnonzero(TABLE.whole)


# --- of every kind ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_are_there_are_chunks_unlike_the_experts(kind):
    rows = WHOLE[:4]
    chunks, there = make(kind, TABLE, rows)
    count = 2 if kind == "samples" else 1
    assert chunks.shape == (4, count, T, A)
    assert chunks.dtype == np.float32
    assert there.shape == (4, count)
    assert there.dtype == bool
    assert there.any()
    assert np.isfinite(chunks).all()
    assert torch.from_numpy(chunks).shape == chunks.shape  # which takes no reversed arrays
    differs = (chunks != TABLE.at(rows)[:, None]).any(axis=(2, 3))
    assert differs[there].all()


@pytest.mark.parametrize("kind", ["noise", "shift", "reversed", "joints", "other-task"])
def test_a_frames_own_generator_decides_whatever_else_is_in_the_batch(kind):
    together, there = make(kind, TABLE, WHOLE, shift=2)
    for place, row in enumerate(WHOLE):
        alone, alone_there = make(kind, TABLE, [row], shift=2)
        assert np.array_equal(alone[0], together[place])
        assert np.array_equal(alone_there[0], there[place])
    if kind != "reversed":
        assert not np.array_equal(make(kind, TABLE, WHOLE, seed=1, shift=2)[0], together)


# --- kind by kind -----------------------------------------------------------------------------


def test_noise_is_as_large_as_the_joints_vary():
    rows = np.repeat(WHOLE, 100)
    settings = NegativeSettings(noise=0.5)
    batch = make_batch(TABLE.at(rows), rows)
    rngs = [np.random.default_rng(place) for place in range(len(rows))]
    chunks, there = negatives("noise", batch, TABLE, rows, rngs, settings)
    assert there.all()
    noise = (chunks[:, 0] - TABLE.at(rows)).reshape(-1, A)
    assert noise.std(axis=0) == pytest.approx(0.5 * TABLE.actions.std(axis=0), rel=0.05)
    assert np.abs(noise.mean(axis=0)).max() < 0.05
    correlations = np.corrcoef(noise.T) - np.eye(A)
    assert np.abs(correlations).max() < 0.05


def test_more_noise_is_the_same_noise_larger():
    once, twice = (make("noise", TABLE, WHOLE, noise=noise)[0] for noise in (1.0, 2.0))
    own = TABLE.at(WHOLE)[:, None]
    assert np.allclose(twice - own, 2 * (once - own), atol=1e-5)


@pytest.mark.parametrize("shift", [None, 1, 3, 7])
def test_shifted_chunks_were_recorded_in_the_same_episode(shift):
    frames = shift or T
    seen = set()
    for seed in range(10):
        chunks, there = make("shift", TABLE, WHOLE, seed, shift=shift)
        for row, chunk, is_there in zip(WHOLE, chunks[:, 0], there[:, 0], strict=True):
            could = [
                other
                for other in (row - frames, row + frames)
                if other in WHOLE and TABLE.episode[other] == TABLE.episode[row]
            ]
            assert is_there == bool(could)
            found = [other for other in could if np.array_equal(TABLE.at([other])[0], chunk)]
            assert len(found) == is_there
            seen |= {int(other - row) for other in found}
    assert seen == {-frames, frames}


def test_nothing_is_recorded_so_much_later_or_earlier():
    chunks, there = make("shift", TABLE, WHOLE, shift=1000)
    assert not there.any()
    assert np.array_equal(chunks[:, 0], TABLE.at(WHOLE))


def test_reversed_chunks_run_backwards():
    chunks, there = make("reversed", TABLE, WHOLE)
    assert there.all()
    for row, chunk in zip(WHOLE, chunks[:, 0], strict=True):
        for step in range(T):
            assert np.array_equal(chunk[step], TABLE.actions[row + T - 1 - step])


def test_a_chunk_that_is_the_same_backwards_has_no_reversed_one():
    actions = np.array([[1, 2, 2, 1], [1, 2, 2, 3]], np.float32)[..., None].repeat(A, axis=2)
    rows = np.array([0, 1])
    batch = make_batch(actions, rows)
    _, there = negatives("reversed", batch, TABLE, rows, rngs_of(rows), NegativeSettings())
    assert there.tolist() == [[False], [True]]


@settings(max_examples=40, deadline=None)
@given(
    joints=st.lists(st.tuples(*[st.integers(0, 1)] * 2), min_size=1, max_size=5),
    seed=st.integers(0, 100),
)
def test_joints_are_exchanged_wherever_two_differ(joints, seed):
    actions = np.array(joints, np.float32).T[None]  # (1, 2, joints), many of them alike
    rows = np.array([0])
    batch = make_batch(actions, rows)
    made = negatives("joints", batch, TABLE, rows, rngs_of(rows, seed), NegativeSettings())
    chunk, there = made[0][0, 0], made[1][0, 0]
    assert sorted(map(tuple, chunk.T.tolist())) == sorted(map(tuple, joints))
    assert there == (len(set(joints)) > 1)
    assert there == (not np.array_equal(chunk, actions[0]))


def test_all_orders_of_joints_are_drawn():
    rows = np.repeat(WHOLE[:1], 100)
    batch = make_batch(TABLE.at(rows), rows)
    rngs = [np.random.default_rng(place) for place in range(100)]
    chunks, _ = negatives("joints", batch, TABLE, rows, rngs, NegativeSettings())
    assert len({chunk.tobytes() for chunk in chunks}) == 5  # of the six, not the expert's own


def test_chunks_of_another_text_were_recorded_under_another():
    drawn = set()
    for seed in range(30):
        chunks, there = make("other-task", TABLE, WHOLE, seed)
        assert there.all()
        for row, chunk in zip(WHOLE, chunks[:, 0], strict=True):
            found = [other for other in WHOLE if np.array_equal(TABLE.at([other])[0], chunk)]
            assert len(found) == 1
            assert TABLE.text[found[0]] != TABLE.text[row]
            drawn |= set(found)
    assert drawn == set(WHOLE)


class Counting:
    """In place of a generator: every number once."""

    def __init__(self):
        self.next, self.limit = 0, None

    def integers(self, limit):
        self.next, self.limit = self.next + 1, limit
        return self.next - 1


@given(st.tuples(*[st.integers(0, 2)] * 3), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_every_chunk_of_another_text_is_as_likely(texts, text):
    table, numbers = make_table(texts), Counting()
    others = [row for row in WHOLE if table.text[row] != text]
    assert sorted(table.of_another_text(text, numbers) for _ in others) == others
    assert numbers.limit == (len(others) or None)
    if not others:
        assert table.of_another_text(text, numbers) is None


def test_where_there_is_one_text_there_is_no_other():
    table = make_table(texts=(2, 2, 2))
    chunks, there = make("other-task", table, WHOLE)
    assert not there.any()
    assert np.array_equal(chunks[:, 0], table.at(WHOLE))


@pytest.mark.parametrize("kind", ["layers", "samples"])
def test_chunks_of_the_policy_are_negatives_from_a_distance_on(kind):
    rows = WHOLE[:2]
    own = torch.from_numpy(TABLE.at(rows))[:, None].repeat(1, 3, 1, 1)
    own[:, 1] += 0.25  # everywhere
    own[:, 2, 0, 0] += 2.0  # of T · A numbers one: a distance of 2 / sqrt(12)
    batch = make_batch(TABLE.at(rows), rows, **{kind: own})
    for far, expected in {
        0.2: [False, True, True],
        0.3: [False, False, True],
        0.57: [False, False, True],
        0.58: [False, False, False],
    }.items():
        chunks, there = negatives(kind, batch, TABLE, rows, [], NegativeSettings(far=far))
        assert np.array_equal(chunks, own.numpy())
        assert there.tolist() == [expected, expected]


@pytest.mark.parametrize("kind", ["layers", "samples"])
def test_contexts_without_chunks_of_the_policy_are_named(kind):
    batch = make_batch(TABLE.at(WHOLE), WHOLE)
    with pytest.raises(DataError, match=f"the contexts come without {kind}, expected such"):
        negatives(kind, batch, TABLE, WHOLE, [], NegativeSettings())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": 0.0}, "noise is 0.0, expected a number above 0"),
        ({"noise": float("inf")}, "noise is inf, expected a number above 0"),
        ({"far": float("nan")}, "far is nan, expected a number above 0"),
        ({"shift": 0}, "shift is 0, expected at least 1 frame"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        NegativeSettings(**changes)
