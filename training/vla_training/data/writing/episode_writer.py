# SPDX-License-Identifier: Apache-2.0
"""LeRobot's own writer of datasets, fed with shards.

Two of its steps are replaced, each of which takes time that grows with the dataset and does
nothing for us: for every episode it copies the whole video file so far, where ``VideoFiles``
copies each episode once; and it looks for pictures in every row of a table that has none.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.dataset_writer import DatasetWriter
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import write_info, write_stats
from lerobot.datasets.utils import update_chunk_file_indices

from vla_training.data.schema import (
    ACTION,
    BAG_TIME,
    OUTCOME,
    STATE,
    SUBTASK,
    SUBTASK_INDEX,
    image_key,
)
from vla_training.data.writing.shards import Shard
from vla_training.data.writing.video_files import VideoFiles


class _Encoded:
    """Stands where LeRobot's writer has its streaming encoder, with videos made before."""

    shard: Shard

    def __init__(self, files: Mapping[str, VideoFiles]) -> None:
        self.files = files

    def finish_episode(self) -> dict[str, tuple[Path, Mapping[str, np.ndarray]]]:
        return {
            image_key(camera): (path, self.shard.statistics[camera])
            for camera, path in self.shard.videos.items()
        }

    def close(self) -> None:
        for file in self.files.values():
            file.close()


class Metadata(LeRobotDatasetMetadata):
    """LeRobot's metadata, with statistics that can always be written."""

    def save_episode(
        self,
        episode_index: int,
        episode_length: int,
        episode_tasks: list[str],
        episode_stats: dict[str, dict[str, np.ndarray]],
        episode_metadata: dict[str, Any],
    ) -> None:
        """As LeRobot's, with statistics as floating point and none of ``bag_time_ns``."""
        # Of times in ns they would be noise: a double has too few digits for their squares.
        # Of an episode of one frame LeRobot makes whole numbers, which a column cannot mix.
        stats = {
            key: {k: v if k == "count" else v.astype(np.float64) for k, v in values.items()}
            for key, values in episode_stats.items()
            if key != BAG_TIME
        }
        super().save_episode(episode_index, episode_length, episode_tasks, stats, episode_metadata)


class EpisodeWriter(DatasetWriter):
    """LeRobot's writer, whose episodes are shards."""

    _pq_writer: Any  # of the base class, which closes it

    def __init__(self, metadata: LeRobotDatasetMetadata, config: RGBEncoderConfig) -> None:
        self._config = config
        self._subtasks: dict[str, int] = {}
        self._data_file = (0, 0)  # chunk and file
        self._videos = _Encoded(
            {
                key: VideoFiles(
                    partial(self._video_path, key),
                    metadata.fps,
                    metadata.chunks_size,
                    metadata.video_files_size_in_mb * 1024**2,
                )
                for key in metadata.video_keys
            }
        )
        super().__init__(metadata, metadata.root, config, None, None, 1, self._videos)

    def save_shard(self, shard: Shard) -> None:
        """Append an episode."""
        length = shard.length
        columns = shard.columns
        for text in columns[SUBTASK].tolist():
            if text:
                self._subtasks.setdefault(text, len(self._subtasks))
        self._videos.shard = shard
        unset: list[Any] = []
        self.save_episode(
            {
                "size": length,
                "task": [shard.task] * length,
                "timestamp": np.arange(length) / self._meta.fps,
                "frame_index": np.arange(length),
                "episode_index": self._meta.total_episodes,
                "index": unset,
                "task_index": unset,
                # In double precision for LeRobot's statistics; they are stored as float32.
                STATE: columns[STATE].astype(np.float64),
                ACTION: columns[ACTION].astype(np.float64),
                BAG_TIME: columns[BAG_TIME],
                SUBTASK: columns[SUBTASK],
                SUBTASK_INDEX: np.array(
                    [self._subtasks.get(text, -1) for text in columns[SUBTASK].tolist()], np.int64
                ),
                OUTCOME: np.full(length, int(shard.outcome), np.int64),
                **{image_key(camera): unset for camera in shard.videos},
            }
        )

    def complete(self) -> None:
        """Finalise, and write what LeRobot has left to us."""
        self.finalize()
        meta = self._meta
        for key in meta.video_keys:
            meta.update_video_info(key, video_encoder=self._config)
        write_info(meta.info, meta.root)
        write_stats(dict(sorted(meta.stats.items())), meta.root)  # LeRobot's order is random
        names = pd.Index(list(self._subtasks), dtype=object, name=SUBTASK)
        table = pd.DataFrame({SUBTASK_INDEX: range(len(names))}, index=names)
        table.to_parquet(meta.root / "meta" / "subtasks.parquet")

    def _video_path(self, key: str, chunk: int, file: int) -> Path:
        name = self._meta.video_path.format(video_key=key, chunk_index=chunk, file_index=file)
        return self._root / name

    def _save_episode_data(self, episode_buffer: dict[str, Any]) -> dict[str, Any]:
        meta = self._meta
        features = get_hf_features_from_features(meta.features)
        columns = {key: episode_buffer[key] for key in features}
        table = datasets.Dataset.from_dict(columns, features=features).with_format("arrow")[:]
        limit = meta.data_files_size_in_mb * 1024**2
        if self._pq_writer and self._data_path().stat().st_size + table.nbytes > limit:
            self.close_writer()
            self._data_file = update_chunk_file_indices(*self._data_file, meta.chunks_size)
        if not self._pq_writer:
            self._data_path().parent.mkdir(parents=True, exist_ok=True)
            self._pq_writer = pq.ParquetWriter(self._data_path(), table.schema)
        self._pq_writer.write_table(table)
        chunk, file = self._data_file
        return {
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": meta.total_frames,
            "dataset_to_index": meta.total_frames + len(table),
        }

    def _data_path(self) -> Path:
        chunk, file = self._data_file
        name = self._meta.data_path.format(chunk_index=chunk, file_index=file)
        return self._root / name

    def _save_episode_video(
        self, video_key: str, episode_index: int, temp_path: Path
    ) -> dict[str, Any]:
        length = self._videos.shard.length
        place = self._videos.files[video_key].append(temp_path, length)
        return {
            "episode_index": episode_index,
            f"videos/{video_key}/chunk_index": place.chunk,
            f"videos/{video_key}/file_index": place.file,
            f"videos/{video_key}/from_timestamp": place.start / self._meta.fps,
            f"videos/{video_key}/to_timestamp": (place.start + length) / self._meta.fps,
        }
