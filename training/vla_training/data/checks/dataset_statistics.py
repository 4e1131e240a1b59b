# SPDX-License-Identifier: Apache-2.0
"""The statistics of a dataset, computed anew from its rows."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_training.data.bags.errors import shown
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding
from vla_training.data.schema import ACTION, STATE

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_BINS = 5000  # of the histogram that LeRobot reads a quantile from, over an episode's range
# LeRobot squares and averages in the column's own float32.
_ROUNDING = 1e-5

Array = npt.NDArray[np.float64]


def check_statistics(dataset: Dataset) -> Iterator[Finding]:
    """``meta/stats.json`` and the statistics of each episode are those of the rows.

    A quantile of a dataset is in LeRobot the mean of its episodes' quantiles.
    """
    if not dataset.stats:
        yield Finding("stats", "meta/stats.json", "fail", "missing: LeRobot cannot normalise")
        return
    for key in dataset.vectors:
        values = dataset.columns[key].reshape(len(dataset.columns[key]), -1).astype(np.float64)
        if not np.isfinite(values).all():
            continue
        if key not in dataset.stats:
            if key in (STATE, ACTION):
                yield Finding("stats", key, "fail", "has no statistics in meta/stats.json")
            continue
        episodes = [_statistics(values[part]) for _, part in dataset.rows()]
        lengths = np.array([part.stop - part.start for _, part in dataset.rows()], np.float64)
        stored = dataset.stats[key]
        if not isinstance(stored, dict):
            yield Finding("stats", key, "fail", f"is {shown(stored)}, expected mean, std and more")
            continue
        yield _compare(key, stored, _whole(values, episodes, lengths))
        yield from _check_episodes(dataset, key, episodes)


def _check_episodes(
    dataset: Dataset, key: str, episodes: list[dict[str, Array]]
) -> Iterator[Finding]:
    """The statistics that each episode keeps of itself."""
    names = [name for name in _EXPECTED if f"stats/{key}/{name}" in dataset.episodes]
    for (episode, _), expected in zip(dataset.rows(), episodes, strict=True):
        found = {name: episode[f"stats/{key}/{name}"] for name in names}
        finding = _compare(f"{key}, episode {episode['episode_index']}", found, expected)
        if names and finding.level != "ok":
            yield finding


_EXPECTED = ("min", "max", "mean", "std", *_QUANTILES)


def _statistics(values: Array) -> dict[str, Array]:
    """Of one episode, (S,) each; ``*_tolerance`` is what LeRobot's way may differ by."""
    low, high = values.min(axis=0), values.max(axis=0)
    square = (values**2).mean(axis=0)
    ordered = np.sort(values, axis=0)
    result = {
        "min": low,
        "max": high,
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "square": square,
        "bin": (high - low) / _BINS,
    }
    for name, share in _QUANTILES.items():
        # The histogram puts a quantile into the bin of this value.
        rank = max(int(np.ceil(share * len(values))), 1)
        result[name] = ordered[rank - 1]
    if len(values) == 1:
        result |= dict.fromkeys(_QUANTILES, result["mean"])
    return result


def _whole(values: Array, episodes: list[dict[str, Array]], lengths: Array) -> dict[str, Array]:
    result = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "square": (values**2).mean(axis=0),
    }
    for name in (*_QUANTILES, "bin"):
        each = np.stack([episode[name] for episode in episodes])
        result[name] = np.average(each, axis=0, weights=lengths)
    return result


def _compare(subject: str, found: Mapping[str, Any], expected: Mapping[str, Array]) -> Finding:
    """The greatest deviation, in units of what is tolerated."""
    missing = [name for name in _EXPECTED if name not in found]
    size = np.sqrt(expected["square"])
    tolerance = {
        "min": _ROUNDING * size,
        "max": _ROUNDING * size,
        "mean": _ROUNDING * size,
        **dict.fromkeys(_QUANTILES, 2 * expected["bin"] + _ROUNDING * size),
    }
    worst, place, text = 0.0, "", "as computed from the rows"
    for name in _EXPECTED:
        if name in missing:
            continue
        try:
            value = np.asarray(found[name], np.float64).reshape(size.shape)
        except (ValueError, TypeError):
            return Finding("stats", subject, "fail", f"{name} is {shown(found[name])}, not numbers")
        if name == "std":
            # Rounding happens in the square: next to a large mean a small spread is lost.
            off = np.abs(value**2 - expected["std"] ** 2)
            allowed = _ROUNDING * expected["square"]
        else:
            off, allowed = np.abs(value - expected[name]), tolerance[name]
        share = off / np.maximum(allowed, 1e-12)
        i = int(np.argmax(np.nan_to_num(share, nan=np.inf)))
        if not share[i] <= worst:
            worst = float(share[i])
            place = f"{name} of value {i} is {value[i]:.6g}, the rows give {expected[name][i]:.6g}"
    if not worst <= 1:
        return Finding("stats", subject, "fail", place, worst, 1)
    if missing:
        text = f"{', '.join(missing)} missing: policies that normalise by them cannot be trained"
        return Finding("stats", subject, "warn", text, worst, 1)
    return Finding("stats", subject, "ok", text, worst, 1)
