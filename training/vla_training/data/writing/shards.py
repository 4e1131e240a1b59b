# SPDX-License-Identifier: Apache-2.0
"""Shards: one episode each, encoded, in a folder that is there wholly or not at all.

A shard holds ``columns.npz``, one MP4 file per camera, and ``shard.json``. Equal input makes
equal bytes, so that a dataset is the same whether its conversion was interrupted or not.
"""

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from vla_training.data.errors import DataError
from vla_training.data.files import publish, write_json
from vla_training.data.schema import ACTION, BAG_TIME, STATE, SUBTASK, DatasetSchema, Outcome
from vla_training.data.writing.encoder import CameraEncoder, encoder_config
from vla_training.data.writing.video_settings import VideoSettings

_FORMAT = 1
# What reading raises where a file was cut short, or another program wrote it.
_DAMAGE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


@dataclass(frozen=True)
class Shard:
    """One encoded episode.

    Attributes:
        folder: Where it is.
        length: Frames.
        task: In plain words.
        outcome: How the episode ended.
        columns: ``observation.state`` (T, S) and ``action`` (T, A) float32, ``bag_time_ns``
            (T,) int64, ``subtask`` (T,) unicode.
        videos: MP4 file by camera.
        statistics: By camera, in levels of 0 to 255 (``PictureStatistics.result``).
        source: Where the episode came from, as given to ``ShardWriter.finish``.
        made_with: What it has in common with all shards that may share a dataset with it.
    """

    folder: Path
    length: int
    task: str
    outcome: Outcome
    columns: Mapping[str, np.ndarray]
    videos: Mapping[str, Path]
    statistics: Mapping[str, Mapping[str, np.ndarray]]
    source: Mapping[str, Any]
    made_with: Mapping[str, Any]


class ShardWriter:
    """Writes one shard; a context manager that leaves nothing behind unless finished.

    Args:
        folder: To make. Until ``finish`` its content lies in a sibling that ends in
            ``.partial``; what an interrupted run left there is deleted.
        schema: Of the dataset.
        video: Of the encoders.
        expected_frames: About how many frames will come.

    Raises:
        DataError: The folder exists, cannot be made, or the video settings are wrong.
    """

    def __init__(
        self, folder: Path, schema: DatasetSchema, video: VideoSettings, expected_frames: int
    ) -> None:
        if folder.exists():
            raise DataError(f"{folder}: exists already; a shard is never overwritten")
        config = encoder_config(video)
        self._folder = folder
        self._partial = folder.with_name(f"{folder.name}.partial")
        self._schema = schema
        self._made_with = compatibility(schema, video)
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._times: list[int] = []
        self._subtasks: list[str] = []
        try:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise _unwritable(self._partial, error) from error
        self._encoders = {
            camera: CameraEncoder(
                camera, _video(self._partial, camera), size, schema.fps, config, expected_frames
            )
            for camera, size in schema.cameras.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def add(
        self,
        pictures: Mapping[str, np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        bag_time_ns: int,
        subtask: str,
    ) -> None:
        """Add the next frame, waiting while the encoders are behind.

        Args:
            pictures: (H, W, 3) uint8 RGB by camera. They are not copied and must not change
                afterwards.
            state: (S,).
            action: (A,).
            bag_time_ns: Time of the frame, later than that of the frame before it.
            subtask: What was worked on; empty for nothing in particular.

        Raises:
            DataError: The frame does not fit the schema, or an encoder failed.
        """
        frame = len(self._times)
        self._check_pictures(frame, pictures)
        state = _vector(frame, STATE, state, self._schema.state_names)
        action = _vector(frame, ACTION, action, self._schema.action_names)
        if self._times and bag_time_ns <= self._times[-1]:
            raise DataError(
                f"frame {frame}: its time {bag_time_ns} ns is not after {self._times[-1]} ns, "
                "the time of the frame before it"
            )
        for camera, encoder in self._encoders.items():
            encoder.add(pictures[camera])
        self._states.append(state)
        self._actions.append(action)
        self._times.append(bag_time_ns)
        self._subtasks.append(subtask)

    def finish(self, task: str, outcome: Outcome, source: Mapping[str, Any]) -> Shard:
        """Complete the shard; its folder appears under its own name.

        Args:
            task: In plain words.
            outcome: How the episode ended.
            source: Where it came from; must go into JSON.

        Raises:
            DataError: There is no frame, an encoder failed, or the disk is full.
        """
        if not self._times:
            raise DataError(f"{self._folder}: an episode needs at least one frame")
        statistics = {camera: encoder.finish() for camera, encoder in self._encoders.items()}
        record = {
            "format": _FORMAT,
            "length": len(self._times),
            "task": task,
            "outcome": int(outcome),
            "source": source,
            "made_with": self._made_with,
            "statistics": {
                camera: {key: value.tolist() for key, value in values.items()}
                for camera, values in statistics.items()
            },
        }
        try:
            np.savez(
                self._partial / "columns.npz",
                allow_pickle=False,
                **{
                    STATE: np.stack(self._states),
                    ACTION: np.stack(self._actions),
                    BAG_TIME: np.array(self._times, np.int64),
                    SUBTASK: np.array(self._subtasks, np.str_),
                },
            )
            write_json(self._partial / "shard.json", record)
            publish(self._partial, self._folder)
        except OSError as error:
            raise _unwritable(self._partial, error) from error
        return read_shard(self._folder)

    def abort(self) -> None:
        """Stop the encoders and delete what is not finished. May be called at any time."""
        for encoder in self._encoders.values():
            encoder.abort()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _check_pictures(self, frame: int, pictures: Mapping[str, np.ndarray]) -> None:
        if pictures.keys() != self._schema.cameras.keys():
            raise DataError(
                f"frame {frame}: has pictures of {sorted(pictures)} instead of "
                f"{sorted(self._schema.cameras)}"
            )
        for camera, size in self._schema.cameras.items():
            picture = pictures[camera]
            if picture.shape != (*size, 3) or picture.dtype != np.uint8:
                raise DataError(
                    f"camera {camera}, frame {frame}: a picture of shape {picture.shape} and "
                    f"type {picture.dtype} instead of RGB {(*size, 3)} uint8 (depth pictures "
                    "do not become video)"
                )


def read_shard(folder: Path) -> Shard:
    """Read a finished shard; its videos stay on disk.

    Raises:
        DataError: The folder is no whole shard.
    """
    try:
        record = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            raise DataError(f"{folder}: a shard of format {record['format']} instead of {_FORMAT}")
        with np.load(folder / "columns.npz", allow_pickle=False) as file:
            columns = {key: file[key] for key in (STATE, ACTION, BAG_TIME, SUBTASK)}
        videos = {camera: _video(folder, camera) for camera in record["statistics"]}
        for path in videos.values():
            path.stat()
        shard = Shard(
            folder=folder,
            length=record["length"],
            task=record["task"],
            outcome=Outcome(record["outcome"]),
            columns=columns,
            videos=videos,
            statistics={
                camera: {key: np.array(value) for key, value in values.items()}
                for camera, values in record["statistics"].items()
            },
            source=record["source"],
            made_with=record["made_with"],
        )
    except _DAMAGE as error:
        raise DataError(
            f"{folder}: not a whole shard ({error}); delete it and convert its episode again"
        ) from error
    lengths = {key: len(column) for key, column in columns.items()}
    if set(lengths.values()) != {shard.length}:
        raise DataError(f"{folder}: columns of lengths {lengths} instead of {shard.length}")
    return shard


def compatibility(schema: DatasetSchema, video: VideoSettings) -> dict[str, Any]:
    """What all shards of a dataset must have in common, as it looks in JSON."""
    return {
        "robot": schema.robot,
        "fps": schema.fps,
        "state_names": list(schema.state_names),
        "action_names": list(schema.action_names),
        "cameras": {camera: list(size) for camera, size in schema.cameras.items()},
        "video": [encoder_config(video).vcodec, video.crf, video.preset, video.gop],
    }


def _video(folder: Path, camera: str) -> Path:
    path = folder / f"{camera}.mp4"
    if path.parent != folder:
        raise ValueError(f"camera name {camera!r} leaves the folder")
    return path


def _vector(frame: int, key: str, values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """A vector of a frame as it is stored, float32."""
    with np.errstate(over="ignore"):
        vector = np.asarray(values, np.float32)
    if vector.shape != (len(names),):
        raise DataError(f"frame {frame}: {key} of shape {vector.shape} instead of ({len(names)},)")
    if not np.isfinite(vector).all():
        name = names[int(np.argmin(np.isfinite(vector)))]
        raise DataError(f"frame {frame}: {key} {name} is not a finite number")
    return vector


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder}: cannot be written: {error.strerror or error}")
