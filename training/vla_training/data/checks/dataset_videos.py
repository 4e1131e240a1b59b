# SPDX-License-Identifier: Apache-2.0
"""Checks on the videos of a dataset: every picture is there, on time, and shows something."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import Checks
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.dataset_values import states_of
from vla_training.data.checks.findings import Finding, count, graded
from vla_training.data.checks.motions import MOVED, TRAVELLED
from vla_training.data.checks.video_scan import VideoScan, scan_video
from vla_training.data.errors import DataError

_TOLERANCE = 1e-4  # s; LeRobot refuses a picture that is farther from its time
_STATISTICS = 0.03  # of 1; encoding and the choice of pictures move a mean less than this
_CLEARLY = 5 * MOVED  # from frame to frame, and
_FAR = 4 * TRAVELLED  # over a stretch: motions that a camera hardly misses


@dataclass
class Pictures:
    """What is known about a camera's picture of every row; NaN where there is none.

    Attributes:
        means: (N, 3), 0 to 1.
        squares: (N, 3).
        change: (N,) as ``VideoScan.changes``.
        run: (N,) as ``VideoScan.runs``.
    """

    means: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    change: npt.NDArray[np.float64]
    run: npt.NDArray[np.int64]

    @classmethod
    def unknown(cls, rows: int) -> "Pictures":
        """Nothing is known yet."""
        nothing = np.full((rows, 3), np.nan)
        return cls(nothing, nothing.copy(), np.full(rows, np.inf), np.ones(rows, np.int64))


def check_videos(
    dataset: Dataset, checks: Checks, progress: Callable[[int], object]
) -> Iterator[Finding]:
    """Decodes every video once and checks each picture.

    Args:
        dataset: Its tables may be missing.
        checks: Bounds.
        progress: Called with the number of pictures since the last call.
    """
    for key in dataset.videos:
        files: dict[str, list[dict[str, Any]]] = {}
        for episode in dataset.records:
            files.setdefault(dataset.video_file(episode, key), []).append(episode)
        pictures = Pictures.unknown(int(dataset.episodes["length"].sum()))
        for name, episodes in files.items():
            try:
                begins = {
                    Fraction(_begin(episode, key, dataset.fps), dataset.fps) for episode in episodes
                }
                scan = scan_video(dataset.root / name, begins, progress)
            except DataError as error:
                yield Finding("video", name, "fail", str(error))
                continue
            yield from _check_file(dataset, key, name, episodes, scan)
            for episode in episodes:
                _collect(pictures, scan, episode, key, dataset.fps)
        yield from _check_black(dataset, key, pictures, checks)
        yield from _check_frozen(dataset, key, pictures, checks)
        yield from _check_statistics(dataset, key, pictures)


def _check_file(
    dataset: Dataset, key: str, name: str, episodes: Sequence[Mapping[str, Any]], scan: VideoScan
) -> Iterator[Finding]:
    faults = list(_faults(dataset, key, episodes, scan))
    for text in faults:
        yield Finding("video", name, "fail", text)
    rough = [i for i, time in enumerate(scan.times) if (time * dataset.fps).denominator != 1]
    if not faults and rough:
        text = f"picture {rough[0]} is not exactly at a multiple of 1/{dataset.fps} s"
        yield Finding("video", name, "warn", text, len(rough), 0)
    elif not faults:
        text = f"every picture is whole, at exactly its frame of 1/{dataset.fps} s"
        yield Finding("video", name, "ok", text, len(scan.shown))


def _faults(
    dataset: Dataset, key: str, episodes: Sequence[Mapping[str, Any]], scan: VideoScan
) -> Iterator[str]:
    height, width = dataset.picture_size(key)
    if scan.size != (height, width):
        yield f"is of {scan.size[1]} x {scan.size[0]} px, meta/info.json says {width} x {height}"
    expected = sum(int(episode["length"]) for episode in episodes)
    if len(scan.times) != expected:
        yield f"has {count(len(scan.times), 'picture')} for {expected} frames"
    late = [
        i for i, time in enumerate(scan.times) if abs(time - Fraction(i, dataset.fps)) > _TOLERANCE
    ]
    if late:
        time = float(scan.times[late[0]])
        yield f"picture {late[0]} is at {time:.6f} s, expected {late[0] / dataset.fps:.6f} s"
    if scan.faults:
        yield f"{scan.faults[0]}; {count(len(scan.faults), 'place')} cannot be decoded"
    if len(scan.shown) != len(scan.times):
        yield f"{len(scan.shown)} of {count(len(scan.times), 'picture')} can be decoded"
    begin = 0.0
    for episode in sorted(episodes, key=lambda episode: episode["episode_index"]):
        number = episode["episode_index"]
        first, last = (float(episode[f"videos/{key}/{name}_timestamp"]) for name in ("from", "to"))
        if abs(first - begin) > _TOLERANCE:
            yield f"episode {number} begins at {first:.6f} s, the one before ends at {begin:.6f} s"
        begin = first + int(episode["length"]) / dataset.fps
        if abs(last - begin) > 0.5 / dataset.fps:
            yield f"episode {number} ends at {last:.6f} s, its length says {begin:.6f} s"


def _collect(
    pictures: Pictures, scan: VideoScan, episode: Mapping[str, Any], key: str, fps: int
) -> None:
    """Puts an episode's pictures into its rows."""
    begin = _begin(episode, key, fps)
    places = {round(time * fps) - begin: i for i, time in enumerate(scan.shown)}
    for frame in range(int(episode["length"])):
        row = int(episode["dataset_from_index"]) + frame
        if frame in places and 0 <= row < len(pictures.run):
            i = places[frame]
            pictures.means[row], pictures.squares[row] = scan.means[i], scan.squares[i]
            pictures.change[row], pictures.run[row] = scan.changes[i], scan.runs[i]


def _begin(episode: Mapping[str, Any], key: str, fps: int) -> int:
    """Place of an episode's first picture in its file."""
    return round(float(episode[f"videos/{key}/from_timestamp"]) * fps)


def _check_black(
    dataset: Dataset, key: str, pictures: Pictures, checks: Checks
) -> Iterator[Finding]:
    brightness = pictures.means.mean(axis=1) * 255
    known = ~np.isnan(brightness)
    black = known & (brightness <= checks.black_level)
    share = float(black.sum() / max(known.sum(), 1))
    text = f"{int(black.sum())} of {count(int(known.sum()), 'picture')} are black"
    if black.any():
        text += f", first at {_place(dataset, int(np.argmax(black)))}"
    level = graded(share > checks.black_share, share)
    yield Finding("black", key, level, text, share, checks.black_share)


def _check_frozen(
    dataset: Dataset, key: str, pictures: Pictures, checks: Checks
) -> Iterator[Finding]:
    """Pictures change while the robot moves.

    Encoded, pictures that repeat look like those of a camera that does not see what moves, such
    as the wrist camera of the other arm: this warns and never fails.
    """
    states = states_of(dataset)
    if states is None or len(states) != len(pictures.run):
        return
    steps = np.abs(np.diff(states, axis=0, prepend=states[:1])).max(axis=1)
    chances = (steps > _CLEARLY) & np.isfinite(pictures.change)
    share = float((chances & (pictures.change == 0)).sum() / max(chances.sum(), 1))
    text = f"{share:.1%} of {count(int(chances.sum()), 'picture')} in motion repeat the one before"
    level = graded(False, share > checks.duplicate_share)
    yield Finding("duplicate", key, level, text, share, checks.duplicate_share)

    longest, place = 0, 0
    for row in np.flatnonzero(pictures.run >= checks.frozen_frames):
        begin = row - pictures.run[row] + 1
        if pictures.run[row] > longest and np.ptp(states[begin : row + 1], axis=0).max() > _FAR:
            longest, place = int(pictures.run[row]), int(begin)
    text = "pictures change while the robot moves"
    if longest:
        text = f"{longest} pictures in a row are alike while the robot moves, "
        text += f"from {_place(dataset, place)}: it hung, or does not see what moves"
    yield Finding("frozen", key, graded(False, longest), text, longest, checks.frozen_frames)


def _check_statistics(dataset: Dataset, key: str, pictures: Pictures) -> Iterator[Finding]:
    """Mean and spread are those of the pictures, for the dataset and for each episode."""
    stored = dataset.stats.get(key)
    if not isinstance(stored, dict):
        yield Finding("stats", key, "fail", "has no statistics in meta/stats.json")
        return
    cases = [(key, stored, slice(None))]
    for episode, part in dataset.rows():
        own = {name: episode.get(f"stats/{key}/{name}") for name in ("mean", "std")}
        if all(value is not None for value in own.values()):
            cases.append((f"{key}, episode {episode['episode_index']}", own, part))
    whole = True
    for subject, found, part in cases:
        means, squares = pictures.means[part], pictures.squares[part]
        if not len(means) or np.isnan(means).any():
            continue
        mean = means.mean(axis=0)
        spread = np.sqrt(np.maximum(squares.mean(axis=0) - mean**2, 0))
        try:
            off = np.abs(
                np.concatenate([_numbers(found["mean"]) - mean, _numbers(found["std"]) - spread])
            )
        except (KeyError, ValueError, TypeError):
            yield Finding("stats", subject, "fail", "mean or std is not three numbers")
            continue
        if not off.max() <= _STATISTICS:
            whole = False
            text = "mean or std of a channel is not that of the pictures"
            yield Finding("stats", subject, "fail", text, float(off.max()), _STATISTICS)
    if whole:
        yield Finding("stats", key, "ok", "mean and std are those of the pictures")


def _numbers(value: Any) -> npt.NDArray[np.float64]:
    """Nested lists or arrays, as JSON and parquet give them, flat."""
    if isinstance(value, list | np.ndarray):
        return np.concatenate([np.zeros(0), *map(_numbers, value)])
    return np.array([float(value)])


def _place(dataset: Dataset, row: int) -> str:
    ends = dataset.episodes["length"].cumsum().to_numpy()
    episode = int(np.searchsorted(ends, row, side="right"))
    return f"episode {episode} frame {row - int(ends[episode - 1] if episode else 0)}"
