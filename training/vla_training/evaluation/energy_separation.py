# SPDX-License-Identifier: Apache-2.0
"""How well energies tell the expert's chunks from others, with what is uncertain about it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MEAN = "mean of all kinds"
"""Of the areas of all kinds of negatives; each kind counts the same."""
LEVEL = 0.95
"""Of the intervals."""

_DRAWS = 1000  # of episodes, for an interval

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Separation:
    """Of the expert's chunks from negatives of one kind.

    Attributes:
        negatives: How many there are.
        auroc: Share of pairs of an expert's chunk and a negative, of whatever frames, in which
            the negative has the higher energy; equal ones count half. It is what one threshold
            for all frames can do. None without negatives, as are the next two.
        interval: Of ``auroc``, at ``LEVEL``, over other draws of episodes; None for one episode.
        same_frame: The share of pairs of the same frame, mean over frames. It is what choosing
            among candidates can do.
    """

    negatives: int
    auroc: float | None
    interval: Interval | None
    same_frame: float | None


@dataclass(frozen=True, eq=False)
class ScoredFrames:
    """N frames and energies in them.

    Attributes:
        episode: (N,) what tells episodes apart.
        expert: (N,) energies of the expert's chunks.
        negatives: By kind, (N, M) energies; NaN where there is no such chunk.
    """

    episode: npt.NDArray[np.int64]
    expert: Floats
    negatives: Mapping[str, Floats]

    def take(self, rows: Bools) -> "ScoredFrames":
        """Some of the frames."""
        return ScoredFrames(
            self.episode[rows],
            self.expert[rows],
            {kind: energies[rows] for kind, energies in self.negatives.items()},
        )


def separate(frames: ScoredFrames, seed: int = 0) -> dict[str, Separation]:
    """Measures the separation from negatives of every kind, and the mean of all kinds.

    Args:
        frames: One at least.
        seed: Of the draws of episodes.

    Returns:
        By kind, with ``MEAN`` last.
    """
    weights = episode_draws(frames.episode, seed)
    found, drawn = {}, []
    for kind, energies in frames.negatives.items():
        found[kind], areas = _separation(frames, energies, weights)
        if found[kind].negatives:
            drawn.append(areas)
    known = [one for one in found.values() if one.auroc is not None]
    found[MEAN] = Separation(
        negatives=sum(one.negatives for one in known),
        auroc=_mean([one.auroc for one in known]),
        interval=interval_of(np.mean(drawn, axis=0)) if drawn else None,
        same_frame=_mean([one.same_frame for one in known]),
    )
    return found


def pairs_by_episode(
    expert: Floats, negatives: Floats, episode: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts pairs of an expert's chunk and a negative.

    Args:
        expert: (N,) energies.
        negatives: (N, M) energies; NaN where there is none.
        episode: (N,) of E episodes.

    Returns:
        Pairs in which the negative is higher, (E, E) by the expert's episode and the negative's,
        equal ones half; and all pairs. The quotient of their sums is the area under the ROC
        curve, exactly.
    """
    episodes, codes = np.unique(episode, return_inverse=True)
    count = len(episodes)
    frames = np.bincount(codes, minlength=count)
    higher, pairs = np.zeros((2, count, count))
    for place in range(count):
        theirs = negatives[codes == place]
        theirs = np.sort(theirs[~np.isnan(theirs)])
        below = np.searchsorted(theirs, expert, "left") + np.searchsorted(theirs, expert, "right")
        higher[:, place] = np.bincount(codes, len(theirs) - below / 2, count)
        pairs[:, place] = frames * len(theirs)
    return higher, pairs


def episode_draws(episode: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """How often each of E episodes is there when E are drawn anew, (draws, E).

    Frames of an episode are much alike: drawing frames would make intervals too narrow. One
    episode says nothing of others, and gives no draws.
    """
    count = len(np.unique(episode))
    draws = _DRAWS if count > 1 else 0
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), draws).astype(np.float64)


def interval_of(figures: Floats) -> Interval | None:
    """The middle ``LEVEL`` of figures of draws, (draws,); NaN ones tell nothing."""
    known = figures[~np.isnan(figures)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def _separation(
    frames: ScoredFrames, energies: Floats, weights: Floats
) -> tuple[Separation, npt.NDArray[np.float64]]:
    """The separation from one kind, and the areas of the draws."""
    there = ~np.isnan(energies)
    count = int(there.sum())
    if not count:
        return Separation(0, None, None, None), np.empty(0)
    higher, pairs = pairs_by_episode(frames.expert, energies, frames.episode)
    with np.errstate(invalid="ignore"):  # a draw may have no negative
        areas = ((weights @ higher) * weights).sum(1) / ((weights @ pairs) * weights).sum(1)
    expert = frames.expert[:, None]
    won = ((energies > expert) + 0.5 * (energies == expert)).sum(1)  # no comparison with NaN holds
    some = there.any(1)
    separation = Separation(
        negatives=count,
        auroc=float(higher.sum() / pairs.sum()),
        interval=interval_of(areas),
        same_frame=float((won[some] / there.sum(1)[some]).mean()),
    )
    return separation, areas


def _mean(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None
