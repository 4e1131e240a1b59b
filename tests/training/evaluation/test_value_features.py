# SPDX-License-Identifier: Apache-2.0
"""Features on disk: the encoder's own, whole, and never another's."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_samples import CAMERAS, FPS, make_dataset, make_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.value_config import SIZES
from vla_nodes.models.value_model import make_value_model
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.frame_table import FrameTable, read_frame_table
from vla_training.evaluation import value_features
from vla_training.evaluation.value_features import FeatureCache, feature_bytes, open_features
from vla_training.evaluation.value_pictures import open_pictures

LENGTHS = (5, 7, 3)
ROWS = np.arange(sum(LENGTHS))
CONFIG = SIZES["tiny"]("cross-attention")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("features") / "set", make_episodes(LENGTHS))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the encoder has had."""
    counts, real = [], value_features.encode_pictures

    def counting(model: Any, pictures: torch.Tensor) -> torch.Tensor:
        counts.append(len(pictures))
        return real(model, pictures)

    monkeypatch.setattr(value_features, "encode_pictures", counting)
    return counts


def encoder(seed: int = 0, **sizes: Any) -> Any:
    torch.manual_seed(seed)
    return make_value_model(replace(CONFIG, **sizes)).eval()


def frames(root: Path, *episodes: int) -> FrameTable:
    return read_frame_table(root, read_info(root)["features"], FPS, episodes or range(3))


def filled(model: Any, root: Path, folder: Path, rows: Any = ROWS) -> FeatureCache:
    cameras = tuple(CAMERAS)
    return open_features(model, root, frames(root), cameras, rows, folder, batch_size=4, workers=0)


def test_features_are_the_encoders_in_float16(dataset: Path, tmp_path: Path) -> None:
    model = encoder()
    cache = filled(model, dataset, tmp_path)
    recorded = LeRobotDataset("a/b", root=dataset, video_backend="pyav", return_uint8=True)
    rows = [14, 0, 6, 6]
    for camera in CAMERAS:
        pictures = torch.stack([recorded[row][f"observation.images.{camera}"] for row in rows])
        with torch.no_grad():
            expected = model.encode(fit_pictures(pictures, 32))
        features = cache.read(camera, rows)
        assert features.dtype == torch.float16
        torch.testing.assert_close(features.float(), expected, rtol=1e-3, atol=1e-3)


def test_what_is_there_is_not_encoded_again(
    dataset: Path, tmp_path: Path, encoded: list[int]
) -> None:
    filled(encoder(), dataset, tmp_path, [1, 2, 9])
    assert sum(encoded) == 2 * 3
    filled(encoder(), dataset, tmp_path, [9, 2, 3])
    assert sum(encoded) == 2 * 4
    # Rows of a table of other episodes are other frames.
    cache = FeatureCache(
        tmp_path, open_pictures(dataset, ("front",)), frames(dataset, 1), encoder()
    )
    assert cache.missing("front", np.arange(7)).tolist() == [0, 1, 2, 3, 5, 6]


def test_features_that_were_not_asked_for_are_not_given(dataset: Path, tmp_path: Path) -> None:
    cache = filled(encoder(), dataset, tmp_path, [1, 2])
    with pytest.raises(DataError, match="nothing of frame 3 "):
        cache.read("front", [1, 3])


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"image_size": 48}, {"vision": replace(CONFIG.vision, heads=4)}],
)
def test_another_encoders_features_are_not_taken(
    dataset: Path, tmp_path: Path, encoded: list[int], other: dict[str, Any]
) -> None:
    filled(encoder(), dataset, tmp_path)
    before = sum(encoded)
    filled(encoder(**other), dataset, tmp_path)
    assert sum(encoded) == 2 * before
    filled(encoder().bfloat16(), dataset, tmp_path)
    assert sum(encoded) == 3 * before


def test_what_lies_behind_the_encoder_does_not_matter(
    dataset: Path, tmp_path: Path, encoded: list[int]
) -> None:
    model = encoder()
    filled(model, dataset, tmp_path)
    before = sum(encoded)
    with torch.no_grad():
        model.projection.weight.add_(1.0)
    filled(model, dataset, tmp_path)
    assert sum(encoded) == before


def test_another_datasets_features_are_not_taken_wherever_it_lies(
    dataset: Path, tmp_path: Path, encoded: list[int]
) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "set"))
    filled(encoder(), root, tmp_path / "cache")
    before = sum(encoded)
    moved = root.rename(tmp_path / "moved")
    filled(encoder(), moved, tmp_path / "cache")
    assert sum(encoded) == before
    episodes = make_episodes(LENGTHS[::-1])
    other = make_dataset(tmp_path / "set", episodes)  # of the same name, size and place
    filled(encoder(), other, tmp_path / "cache")
    assert sum(encoded) == 2 * before


def test_an_interrupted_filling_goes_on_and_gives_the_same_bytes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(encoder(), dataset, tmp_path / "whole")
    real, counts = value_features.encode_pictures, []

    def interrupted(model: Any, pictures: torch.Tensor) -> torch.Tensor:
        if len(counts) == 2:
            counts.append(0)
            raise KeyboardInterrupt
        counts.append(len(pictures))
        return real(model, pictures)

    monkeypatch.setattr(value_features, "encode_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled(encoder(), dataset, tmp_path / "parts")
    assert counts == [4, 1, 0]
    filled(encoder(), dataset, tmp_path / "parts")
    assert sum(counts) == 2 * len(ROWS)
    files = list((tmp_path / "whole").rglob("values"))
    assert len(files) == len(CAMERAS)
    for file in files:
        other = tmp_path / "parts" / file.relative_to(tmp_path / "whole")
        assert file.read_bytes() == other.read_bytes()


def test_features_for_which_there_is_no_room_are_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    needed = len(ROWS) * feature_bytes(CONFIG)
    assert needed == 15 * 4 * 32 * 2
    usage = shutil.disk_usage(tmp_path)
    short = usage._replace(free=needed + (64 << 20) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: short)
    with pytest.raises(DataError, match=r"features of 15 pictures take 0\.00 GB"):
        filled(encoder(), dataset, tmp_path)
    assert not encoded


def test_features_of_the_full_size_are_as_large_as_documented() -> None:
    assert feature_bytes(SIZES["full"]("cross-attention")) == 256 * 1152 * 2
    assert feature_bytes(SIZES["full"]("stitched")) == 729 * 1152 * 2
