# SPDX-License-Identifier: Apache-2.0
"""Features of a frozen encoder for the pictures of a dataset, kept on disk.

SigLIP So400m at 224 px has 256 x 1152 numbers for a picture, 590 kB in float16, and at 384 px
1.7 MB: a hundred thousand pictures take 59 or 168 GB. Nothing is kept but what was asked for.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as arrow
import torch
from torch import Tensor
from tqdm import tqdm

from vla_nodes.models.cross_attention_value import CrossAttentionValue
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.value_config import ValueConfig
from vla_training.data.array_store import ArrayStore, check_room
from vla_training.data.errors import DataError
from vla_training.data.loading.frame_table import FrameTable
from vla_training.data.loading.video_clips import clips_digest
from vla_training.evaluation.value_pictures import (
    PictureSource,
    Rows,
    open_pictures,
    read_stretches,
    stretches_of,
)

Model = CrossAttentionValue | StitchedValue

HALF = np.dtype("<f2")

_FORMAT = 1  # another one wherever pictures are fitted or features stored otherwise


class FeatureCache:
    """Features by camera and row of a table of frames.

    Every camera has a folder of its own, whose name is a digest of all that its features follow
    from: the videos and where in them episodes lie, the encoder's weights, type and size. So
    features of another encoder or dataset are never taken for these.

    Args:
        folder: Of all features; several datasets and encoders may share it.
        source: Videos of the cameras.
        table: Whose rows are meant.
        model: Whose encoder it is; it must not change while the cache is in use.

    Raises:
        DataError: The dataset cannot be read, or the folder not be used.
    """

    def __init__(
        self, folder: Path, source: PictureSource, table: FrameTable, model: Model
    ) -> None:
        self._source = source
        self._table = table
        self._model = model
        starts = _starts(source.root)
        self._places = starts[table.episode] + table.frame
        lengths = hashlib.sha256(starts.tobytes()).hexdigest()
        shape = (model.config.image_tokens, model.config.vision.width)
        encoder = _encoder_identity(model)
        self._stores = {
            camera: ArrayStore(
                folder,
                {
                    **encoder,
                    "episodes": lengths,
                    "videos": clips_digest(source.root, source.fps, clips),
                },
                HALF,
                int(starts[-1]),
                shape,
            )
            for camera, clips in source.clips.items()
        }

    def missing(self, camera: str, rows: npt.ArrayLike) -> Rows:
        """Those of the rows, ascending and each once, whose features are not there yet."""
        unique = np.unique(np.asarray(rows, np.int64))
        return unique[~self._stores[camera].done(self._places[unique])]

    def fill(self, rows: npt.ArrayLike, *, batch_size: int = 32, workers: int = 2) -> None:
        """Encodes what is missing; interrupted, it goes on there the next time.

        Processes that fill the same features take turns, and the later finds them made.

        Args:
            rows: Of the table, in any order.
            batch_size: Pictures at a time.
            workers: Processes that decode.

        Raises:
            DataError: The disk has no room for them, a picture cannot be read, or features are
                not finite in float16.
        """
        for camera, store in self._stores.items():
            with store.sole_access():
                missing = self.missing(camera, rows)
                if missing.size:
                    needed = len(missing) * feature_bytes(self._model.config)
                    check_room(store.folder.parent, f"features of {len(missing)} pictures", needed)
                    self._encode(camera, missing, batch_size, workers)

    def read(self, camera: str, rows: npt.ArrayLike) -> Tensor:
        """Features, (N, P, W) float16.

        Args:
            camera: Of those that the cache was made for.
            rows: (N,) of the table, in any order.

        Raises:
            DataError: Some were never filled.
        """
        places = self._places[np.asarray(rows, np.int64)]
        return torch.from_numpy(self._stores[camera].read(places))

    def _encode(self, camera: str, rows: Rows, batch_size: int, workers: int) -> None:
        store = self._stores[camera]
        stretches = stretches_of(self._table, camera, rows, batch_size)
        pictures = read_stretches(self._source, self._table, stretches, workers)
        with (
            store.writing() as write,
            tqdm(
                total=len(rows),
                desc=camera,
                unit=" images",
                leave=False,
                disable=not sys.stderr.isatty(),
            ) as bar,
        ):
            for stretch, batch in zip(stretches, pictures, strict=True):
                features = encode_pictures(self._model, batch).half()
                if not torch.isfinite(features).all():
                    raise DataError(
                        f"features of camera {camera} are not finite in float16; "
                        "use this encoder without a cache"
                    )
                write(self._places[stretch.rows], features.cpu().numpy())
                bar.update(len(batch))


def open_features(
    model: Model,
    dataset_root: Path,
    table: FrameTable,
    cameras: Sequence[str],
    rows: npt.ArrayLike,
    folder: Path,
    batch_size: int = 32,
    workers: int = 2,
    device: torch.device | str | None = None,
) -> FeatureCache:
    """A cache that holds the features of these rows, of every camera.

    Args:
        model: Whose encoder is frozen.
        dataset_root: Of a LeRobot v3 dataset.
        table: Of that dataset, of all episodes or some.
        cameras: Names.
        rows: Of the table.
        folder: Of all features.
        batch_size: Pictures at a time.
        workers: Processes that decode.
        device: To which the model is moved first; None leaves it where it is.

    Raises:
        DataError: As of ``FeatureCache`` and ``FeatureCache.fill``.
    """
    if device is not None:
        model.to(device)
    cache = FeatureCache(folder, open_pictures(dataset_root, cameras), table, model)
    cache.fill(rows, batch_size=batch_size, workers=workers)
    return cache


def feature_bytes(config: ValueConfig) -> int:
    """What the features of one picture take on disk."""
    return config.image_tokens * config.vision.width * HALF.itemsize


def encode_pictures(model: Model, pictures: Tensor) -> Tensor:
    """Features of pictures: (M, 3, H, W) uint8 to (M, P, W), on the model's device."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return model.encode(fit_pictures(pictures.to(device), model.config.image_size))


def _starts(root: Path) -> Rows:
    """Place of the first frame of each episode in its dataset, and behind the last, (E + 1,)."""
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    try:
        table = arrow.dataset(files).to_table(columns=["episode_index", "length"])
        table = table.sort_by("episode_index")
        lengths = table["length"].to_numpy().astype(np.int64)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{root / 'meta/episodes'} cannot be read: {error!s:.200}") from error
    return np.concatenate([[0], np.cumsum(lengths)])


def _encoder_identity(model: Model) -> dict[str, Any]:
    """All that features follow from, beside the pictures."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.vision.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    kind = next(model.parameters()).device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return {
        "format": _FORMAT,
        "weights": digest.hexdigest(),
        "vision": asdict(model.config.vision),
        "image_size": model.config.image_size,
        "autocast": str(cast),
    }
