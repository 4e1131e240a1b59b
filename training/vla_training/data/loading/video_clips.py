# SPDX-License-Identifier: Apache-2.0
"""Where in a LeRobot dataset the video of an episode lies."""

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as arrow

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import INFO

_SAMPLE = 1 << 20  # bytes at both ends of a video, its index among them, that tell it apart


class Clip(NamedTuple):
    """A part of a video file, which may hold many episodes; ``start`` in seconds."""

    path: Path
    start: float


def find_clips(
    root: Path, info: Mapping[str, Any], key: str, episodes: Collection[int]
) -> dict[int, Clip]:
    """Finds the videos of one camera by episode.

    Args:
        root: Of the dataset, absolute.
        info: Its ``info.json``.
        key: Column of the camera.
        episodes: Indices.

    Raises:
        DataError: The column is no video of colours, or a file is missing.
    """
    feature = info["features"][key]
    if feature["dtype"] != "video" or (feature.get("info") or {}).get("is_depth_map"):
        raise DataError(
            f"{root}: {key} is {feature['dtype']} or depth, expected colours as video; "
            "leave out that camera"
        )
    columns = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    try:
        table = arrow.dataset(files).to_table(
            columns=["episode_index", *columns],
            filter=arrow.field("episode_index").isin(list(episodes)),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{root / 'meta/episodes'} cannot be read: {shown(error)}") from error
    clips = {}
    for episode, chunk, file, start in zip(*(c.to_pylist() for c in table.columns), strict=True):
        try:
            name = info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        except (LookupError, ValueError, AttributeError) as error:
            raise DataError(
                f"{root / INFO} has video_path {shown(info.get('video_path'))}, expected one of "
                "video_key, chunk_index and file_index"
            ) from error
        clips[episode] = Clip(root / name, start)
    for path in {clip.path for clip in clips.values()}:
        # Files may be links to a cache, as Hugging Face's library makes them.
        if not Path(os.path.normpath(path)).is_relative_to(root):
            raise DataError(f"{root / INFO} leads to {shown(path)}, outside the dataset")
        if not path.is_file():
            raise DataError(f"{path} is missing")
    missing = sorted(set(episodes) - clips.keys())
    if missing:
        raise DataError(f"{root / 'meta/episodes'} lacks episode {missing[0]}")
    return clips


def clips_digest(root: Path, fps: int, clips: Mapping[int, Clip]) -> str:
    """Tells the pictures of a camera from all others, wherever the dataset lies.

    Args:
        root: Of the dataset, absolute.
        fps: Of the dataset.
        clips: Of the camera, by episode.
    """
    digest = hashlib.sha256(f"{fps}".encode())
    for path in sorted({clip.path for clip in clips.values()}):
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            digest.update(f"{path.relative_to(root)} {length}".encode())
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, length - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    for episode, (path, start) in sorted(clips.items()):
        digest.update(f"{episode} {path.relative_to(root)} {start!r}".encode())
    return digest.hexdigest()
