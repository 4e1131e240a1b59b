# SPDX-License-Identifier: Apache-2.0
import pytest

from vla_training.data.errors import DataError
from vla_training.data.loading.episode_split import Split, split_episodes


def parts_of(split: Split) -> dict[int, str]:
    return {
        episode: part
        for part in ("train", "validation", "test")
        for episode in getattr(split, part)
    }


@pytest.mark.parametrize("count", [3, 4, 7, 10, 25, 101])
def test_every_episode_is_in_exactly_one_part(count):
    split = split_episodes(count, seed=3)
    assert sorted(split.train + split.validation + split.test) == list(range(count))


@pytest.mark.parametrize("count", range(3, 15))
def test_every_part_has_an_episode_from_three_on(count):
    split = split_episodes(count, seed=0)
    assert split.train
    assert split.validation
    assert split.test


@pytest.mark.parametrize(("count", "sizes"), [(10, (8, 1, 1)), (50, (40, 5, 5)), (3, (1, 1, 1))])
def test_sizes_follow_the_shares(count, sizes):
    split = split_episodes(count, seed=7)
    assert (len(split.train), len(split.validation), len(split.test)) == sizes


def test_a_split_follows_from_its_seed():
    assert split_episodes(40, seed=5) == split_episodes(40, seed=5)
    assert split_episodes(40, seed=5) != split_episodes(40, seed=6)


def test_an_episode_more_moves_one_of_the_others_at_most_for_each_part_held_out():
    for count in range(3, 60):
        before, after = (parts_of(split_episodes(c, seed=1)) for c in (count, count + 1))
        moved = [e for e in before if before[e] != after[e]]
        assert len(moved) <= 2
        assert all("train" in (before[e], after[e]) for e in moved)


def test_every_episode_is_tested_on_by_its_share_of_the_seeds():
    times = [0] * 20
    for seed in range(1000):
        for episode in split_episodes(20, seed).test:
            times[episode] += 1
    # Binomial with p 0.1: five standard deviations about 100.
    assert all(abs(t - 100) < 5 * (1000 * 0.1 * 0.9) ** 0.5 for t in times)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_episodes_are_refused_with_the_number_needed(count):
    with pytest.raises(DataError, match=f"{count} episodes .* at least 3 are needed"):
        split_episodes(count, seed=0)


def test_a_part_with_a_share_of_zero_stays_empty_and_needs_no_episode():
    split = split_episodes(2, seed=0, shares=(0.9, 0.1, 0.0))
    assert (len(split.train), len(split.validation), len(split.test)) == (1, 1, 0)


def test_large_held_out_shares_leave_an_episode_to_train_on():
    split = split_episodes(4, seed=0, shares=(0.1, 0.45, 0.45))
    assert len(split.train) == 1


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.2), (1.1, -0.1, 0.0), (0.0, 0.5, 0.5)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(DataError, match="shares"):
        split_episodes(10, seed=0, shares=shares)
