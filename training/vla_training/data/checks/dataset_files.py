# SPDX-License-Identifier: Apache-2.0
"""A LeRobot dataset as it lies on disk: its description, episodes, tasks and tables.

Read with pyarrow alone, so that what LeRobot's own reader forgives is still seen.
"""

import json
import os
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError

_MAX_JSON = 256 << 20  # bytes
_DEFAULT_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_DEFAULT_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)  # of a damaged parquet file
_EPISODE_COLUMNS = (
    *("episode_index", "length", "tasks", "dataset_from_index", "dataset_to_index"),
    *("data/chunk_index", "data/file_index"),
)


@dataclass
class Dataset:
    """What was read of a dataset.

    Attributes:
        root: Its folder.
        info: ``meta/info.json``.
        episodes: One row each, in order of ``episode_index``.
        tasks: ``meta/tasks.parquet``: the text as index, ``task_index`` as column.
        subtasks: ``meta/subtasks.parquet`` in the same form; None where there is none.
        stats: ``meta/stats.json``; empty where there is none.
        conversion: ``meta/conversion.json``; empty where there is none.
        columns: Every column that is neither picture nor text, over all files in LeRobot's order;
            (N,) or (N, S).
        texts: The columns of text, likewise.
    """

    root: Path
    info: dict[str, Any]
    episodes: pd.DataFrame
    tasks: pd.DataFrame
    subtasks: pd.DataFrame | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    conversion: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The rows of ``episodes``."""
        return self.episodes.to_dict("records")

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self.info["fps"]

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """By column."""
        return self.info["features"]

    @property
    def videos(self) -> list[str]:
        """Columns of video."""
        return [key for key, feature in self.features.items() if feature["dtype"] == "video"]

    @property
    def vectors(self) -> list[str]:
        """Columns of numbers that were read, LeRobot's own index columns left out."""
        own = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
        return [key for key in self.columns if key not in own]

    def picture_size(self, key: str) -> tuple[int, int]:
        """(height, width) of a camera's pictures; some datasets name the channels first."""
        shape, names = self.features[key]["shape"], self.features[key].get("names")
        first = str(names[0]) if isinstance(names, list) and names else ""
        return tuple(shape[1:] if first.startswith("channel") else shape[:2])

    def data_file(self, episode: Mapping[str, Any]) -> str:
        """Path of an episode's table inside the dataset."""
        return _path(
            self.info.get("data_path", _DEFAULT_DATA),
            chunk_index=int(episode["data/chunk_index"]),
            file_index=int(episode["data/file_index"]),
        )

    def video_file(self, episode: Mapping[str, Any], key: str) -> str:
        """Path of an episode's video inside the dataset."""
        return _path(
            self.info.get("video_path") or _DEFAULT_VIDEO,
            video_key=key,
            chunk_index=int(episode[f"videos/{key}/chunk_index"]),
            file_index=int(episode[f"videos/{key}/file_index"]),
        )

    def rows(self) -> Iterator[tuple[Mapping[str, Any], slice]]:
        """Each episode with the rows that it claims."""
        for episode in self.records:
            yield episode, slice(episode["dataset_from_index"], episode["dataset_to_index"])


def open_dataset(root: Path) -> Dataset:
    """Reads everything but the tables and the videos.

    Raises:
        DataError: Something that nothing can be checked without is missing or cannot be used.
    """
    info = _read_json(root / "meta/info.json")
    _check_info(info, root)
    dataset = Dataset(root, info, _read_episodes(root), _read_index(root / "meta/tasks.parquet"))
    for key in dataset.videos:
        for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
            values = dataset.episodes.get(f"videos/{key}/{name}")
            if values is None or not np.isfinite(pd.to_numeric(values, errors="coerce")).all():
                raise DataError(f"{root}/meta/episodes: videos/{shown(key)}/{name} are not numbers")
    for episode in dataset.records:
        dataset.data_file(episode)
        for key in dataset.videos:
            dataset.video_file(episode, key)
    if (root / "meta/subtasks.parquet").exists():
        dataset.subtasks = _read_index(root / "meta/subtasks.parquet")
    for name in ("stats", "conversion"):
        if (root / f"meta/{name}.json").exists():
            setattr(dataset, name, _read_json(root / f"meta/{name}.json"))
    return dataset


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise DataError(f"{path} has more than {_MAX_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {shown(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object")
    return content


def _check_info(info: dict[str, Any], root: Path) -> None:
    where = f"{root}/meta/info.json"
    version = info.get("codebase_version")
    if not isinstance(version, str) or not version.startswith("v3."):
        raise DataError(f"{where}: codebase_version is {shown(version, 20)}, expected v3.0")
    fps = info.get("fps")
    if not isinstance(fps, int) or isinstance(fps, bool) or not 0 < fps <= 1000:
        raise DataError(f"{where}: fps is {shown(fps, 20)}, expected a whole number up to 1000")
    features = info.get("features")
    if not isinstance(features, dict) or not features:
        raise DataError(f"{where}: features are missing")
    for key, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        sizes = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
        if not sizes or not isinstance(feature.get("dtype"), str):
            raise DataError(f"{where}: feature {shown(key, 80)} lacks its dtype or shape")
        if feature["dtype"] in ("image", "video") and len(feature["shape"]) != 3:
            raise DataError(
                f"{where}: pictures {shown(key, 80)} are of a shape that is not of three"
            )
    for name in ("total_episodes", "total_frames", "total_tasks"):
        if not isinstance(info.get(name), int):
            raise DataError(f"{where}: {name} is {shown(info.get(name), 20)}, expected a number")


def _path(template: Any, **fields: int | str) -> str:
    """Fills a template of ``info.json``, which must not lead out of the dataset.

    Raises:
        DataError: Fields or formats that LeRobot does not write, or a path that climbs out.
    """
    if not isinstance(template, str):
        raise DataError(f"a path in meta/info.json is {shown(template, 40)}, expected a text")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"path {shown(template)} in meta/info.json: {error}") from error
    for _, name, form, conversion in parts:
        if name is not None and (
            name not in fields or conversion or form not in ("", "03d", "06d")
        ):
            raise DataError(
                f"path {shown(template)} in meta/info.json: {{{shown(name)}}} is unknown"
            )
    path = template.format(**fields)
    # Links inside the folder are followed: the cache of the Hugging Face Hub consists of them.
    plain = Path(os.path.normpath(path))
    if plain.is_absolute() or plain.parts[:1] == ("..",) or "\0" in path:
        raise DataError(f"path {shown(path)} in meta/info.json leads out of the dataset")
    return plain.as_posix()


def _read_episodes(root: Path) -> pd.DataFrame:
    files = sorted(root.glob("meta/episodes/*/*.parquet"))
    if not files:
        raise DataError(f"{root}/meta/episodes: no parquet file there")
    try:
        episodes = pd.concat([pq.read_table(file).to_pandas() for file in files], ignore_index=True)
    except _UNREADABLE as error:
        raise DataError(f"{root}/meta/episodes: cannot be read: {shown(error)}") from error
    for name in _EPISODE_COLUMNS:
        if name not in episodes:
            raise DataError(f"{root}/meta/episodes: column {name} is missing")
        if name != "tasks" and not pd.api.types.is_integer_dtype(episodes[name]):
            raise DataError(f"{root}/meta/episodes: column {name} is not of whole numbers")
    return episodes.sort_values("episode_index", kind="stable", ignore_index=True)


def _read_index(path: Path) -> pd.DataFrame:
    """A table of texts (the index) and their numbers (its only column)."""
    try:
        table = pd.read_parquet(path)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read: {shown(error)}") from error
    name = f"{path.stem.removesuffix('s')}_index"
    if name not in table or not pd.api.types.is_integer_dtype(table[name]):
        raise DataError(f"{path}: column {name} of whole numbers is missing")
    return table
