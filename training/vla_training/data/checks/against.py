# SPDX-License-Identifier: Apache-2.0
"""A dataset against the bags it was made from: every value is derived anew from the messages.

Nothing that the conversion makes frames with is used here, so that its faults show: values are
looked up and interpolated in arrays of all messages around an episode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.bag import Bag, open_bag, read_bags
from vla_training.data.checks.against_pictures import compare_pictures
from vla_training.data.checks.against_values import ValueTally, compare_values
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding
from vla_training.data.checks.joint_logs import Times
from vla_training.data.checks.picture_tally import PictureTally
from vla_training.data.errors import DataError
from vla_training.data.schema import ACTION, BAG_TIME, STATE, image_key

_MARGIN = 10_000_000_000  # ns around an episode: delays, and the last key frame of a video


@dataclass(frozen=True)
class _Origin:
    """Where an episode comes from; ``start`` and ``stop`` are times of receipt, ns."""

    bags: tuple[Path, ...]
    start: int | None = None
    stop: int | None = None


def compare(
    dataset: Dataset,
    contract: Contract,
    bags: Sequence[Path],
    progress: Callable[[int], object] = lambda _: None,
) -> list[Finding]:
    """Compares every state, action and picture with the bags.

    Args:
        dataset: Its rows can be told apart by episode.
        contract: That it was made with.
        bags: Folders or files; every episode is looked for in all of them.
        progress: Called with the number of pictures since the last call.

    Returns:
        For each column how many values were compared, and the largest difference.
    """
    if BAG_TIME not in dataset.columns:
        text = f"without the column {BAG_TIME} nothing tells which messages a frame is made of"
        return [Finding("against", BAG_TIME, "fail", text)]
    values = [ValueTally(STATE), ValueTally(ACTION)]
    pictures = [
        PictureTally(image_key(camera.name), camera, contract.checks.min_psnr)
        for camera in contract.cameras
        if image_key(camera.name) in dataset.videos
    ]
    problems = []
    for episode, part in dataset.rows():
        times = dataset.columns[BAG_TIME][part]
        try:
            origin = _find_origin(dataset, int(episode["episode_index"]), bags, times)
            with read_bags(origin.bags) as bag:
                window = _window(bag, origin, times)
                compare_values(dataset, part, contract, bag, window, values)
                compare_pictures(dataset, episode, contract, bag, window, pictures, progress)
        except DataError as error:
            subject = f"episode {episode['episode_index']}"
            problems.append(Finding("against", subject, "fail", f"not compared: {error}"))
    compared = [tally.finding() for tally in values] + [tally.finding() for tally in pictures]
    return problems + compared


def _find_origin(dataset: Dataset, index: int, bags: Sequence[Path], times: Times) -> _Origin:
    """The bags that an episode says it is from, or else those recorded at its time.

    Raises:
        DataError: None of the bags is.
    """
    source = _source_of(dataset, index)
    names = source.get("bags")
    if isinstance(names, list):
        named = [bag for bag in bags if "/".join(bag.resolve().parts[-2:]) in names]
        named = named or [
            bag for bag in bags if any(str(n).endswith(f"/{bag.name}") for n in names)
        ]
        if named:
            bounds = (source.get("start_ns"), source.get("stop_ns"))
            return _Origin(tuple(named), *(n if isinstance(n, int) else None for n in bounds))
    recorded = [bag for bag in bags if _covers(_span(bag), times)]
    if not recorded:
        raise DataError(
            f"none of the bags given holds the time from {times[0]} ns to {times[-1]} ns"
        )
    return _Origin(tuple(recorded))


def _source_of(dataset: Dataset, index: int) -> Mapping[str, Any]:
    """What ``meta/conversion.json`` says about an episode; empty where it says nothing."""
    episodes = dataset.conversion.get("episodes")
    if not isinstance(episodes, list) or index >= len(episodes):
        return {}
    source = episodes[index].get("source") if isinstance(episodes[index], dict) else None
    return source if isinstance(source, dict) else {}


@cache
def _span(path: Path) -> tuple[int, int]:
    with open_bag(path) as bag:
        return bag.start, bag.end


def _covers(span: tuple[int, int], times: Times) -> bool:
    return span[0] - _MARGIN <= times[0] and times[-1] <= span[1] + _MARGIN


def _window(bag: Bag, origin: _Origin, times: Times) -> tuple[int, int]:
    """Times of receipt to read; a part of the bag where stamps and receipts are of one clock."""
    start = bag.start if origin.start is None else origin.start
    stop = bag.end if origin.stop is None else origin.stop
    if _covers((start, stop), times):
        return max(start, int(times[0]) - _MARGIN), min(stop, int(times[-1]) + _MARGIN)
    return start, stop
