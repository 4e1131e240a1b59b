# SPDX-License-Identifier: Apache-2.0
"""Shards to a LeRobot v3 dataset."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vla_training.data.errors import DataError
from vla_training.data.files import publish, write_json
from vla_training.data.schema import DatasetSchema
from vla_training.data.writing.encoder import encoder_config
from vla_training.data.writing.episode_writer import EpisodeWriter, Metadata
from vla_training.data.writing.shards import compatibility, read_shard
from vla_training.data.writing.video_settings import VideoSettings

VIDEO_FILE_MB = 200


def write_dataset(
    out: Path,
    shards: Iterable[Path],
    schema: DatasetSchema,
    video: VideoSettings,
    about: Mapping[str, Any],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Make a dataset out of shards, which stay as they are. Equal input makes equal bytes.

    Args:
        out: Folder to make; it appears when all is written.
        shards: In the order of the dataset; may come from several machines.
        schema: That all shards were made with.
        video: That all shards were made with.
        about: Kept in ``meta/conversion.json``.
        progress: Called after each episode with how many there are so far.

    Raises:
        DataError: There is no shard, one is damaged or was made otherwise, the folder exists,
            or the disk is full.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; give another folder, or delete it")
    aside = out.with_name(f".{out.name}.partial-dataset")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        metadata = Metadata.create(
            repo_id=out.name,
            fps=schema.fps,
            features=schema.features,
            robot_type=schema.robot,
            root=aside,
            use_videos=bool(schema.cameras),
            video_files_size_in_mb=VIDEO_FILE_MB,
        )
        writer = EpisodeWriter(metadata, encoder_config(video))
        try:
            episodes = _save(writer, shards, compatibility(schema, video), progress)
            writer.complete()
        except BaseException:
            # What is not finalised would finalise itself when it is deleted.
            with suppress(Exception):
                writer.finalize()
            raise
        write_json(aside / "meta" / "conversion.json", {**about, "episodes": episodes})
        publish(aside, out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _save(
    writer: EpisodeWriter,
    shards: Iterable[Path],
    made_with: Mapping[str, Any],
    progress: Callable[[int], None] | None,
) -> list[dict[str, Any]]:
    """Save all shards; returns what ``meta/conversion.json`` says of each."""
    episodes: list[dict[str, Any]] = []
    for folder in shards:
        shard = read_shard(folder)
        for key, expected in made_with.items():
            found = shard.made_with.get(key)
            if found != expected:
                raise DataError(
                    f"{folder}: made with {key} {found} instead of {expected}; shards of other "
                    "settings do not go into one dataset"
                )
        writer.save_shard(shard)
        episodes.append(
            {
                "episode_index": len(episodes),
                "task": shard.task,
                "outcome": shard.outcome.name.lower(),
                "length": shard.length,
                "source": shard.source,
            }
        )
        if progress:
            progress(len(episodes))
    if not episodes:
        raise DataError(
            "no episode was long enough and complete, so there is nothing to make a dataset of"
        )
    return episodes
