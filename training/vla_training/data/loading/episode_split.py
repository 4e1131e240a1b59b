# SPDX-License-Identifier: Apache-2.0
"""Which episodes are trained on, which choose the checkpoint, and which judge it."""

import hashlib
from dataclasses import dataclass

from vla_training.data.errors import DataError


@dataclass(frozen=True)
class Split:
    """Episodes in ascending order, each in exactly one part."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def split_episodes(
    count: int, seed: int, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> Split:
    """Splits a dataset by episode, so that no two parts hold frames of the same one.

    Episodes are ranked by a hash of seed and episode: the first ranks are tested on, the last
    are validated on. A dataset that grows therefore keeps its split, except that a part whose
    size changes takes an episode from training or gives one to it.

    Args:
        count: Episodes in the dataset.
        seed: Another seed gives another split.
        shares: Of training, validation and test; a share of 0 leaves that part empty. Every
            other part has at least one episode.

    Raises:
        DataError: Fewer episodes than parts, or shares that are no shares.
    """
    if min(shares) < 0.0 or shares[0] == 0.0 or abs(sum(shares) - 1.0) > 1e-6:
        raise DataError(
            f"shares are {shares}, expected a positive one for training, and a sum of 1"
        )
    parts = sum(share > 0.0 for share in shares)
    if count < parts:
        raise DataError(
            f"{count} episodes cannot be split into {parts} parts by episode; "
            f"at least {parts} are needed"
        )
    held = [max(1, round(share * count)) if share else 0 for share in shares[1:]]
    while sum(held) >= count:
        held[held.index(max(held))] -= 1
    validation, test = held
    ranked = sorted(range(count), key=lambda episode: _rank(seed, episode))
    return Split(
        train=tuple(sorted(ranked[test : count - validation])),
        validation=tuple(sorted(ranked[count - validation :])),
        test=tuple(sorted(ranked[:test])),
    )


def _rank(seed: int, episode: int) -> bytes:
    return hashlib.sha256(f"{seed} {episode}".encode()).digest()
