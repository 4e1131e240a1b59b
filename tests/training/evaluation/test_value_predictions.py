# SPDX-License-Identifier: Apache-2.0
"""Values of a whole dataset against a model that is run on one frame after the other."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_samples import FPS, SUBTASKS, TASKS, make_dataset, make_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from value_checkpoint_samples import make_value_checkpoint

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.value_checkpoint import ValueCheckpoint, load_value_model
from vla_nodes.models.value_config import Arch
from vla_nodes.models.value_prompt import value_tokens
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.frame_table import read_frame_table
from vla_training.evaluation import value_features, value_pictures, value_predictions
from vla_training.evaluation.value_frames import cut_blocks, open_frames
from vla_training.evaluation.value_predictions import predict_episodes, predict_values

LENGTHS = (9, 4, 22, 6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("values") / "set", make_episodes(LENGTHS))


def checkpoint(
    folder: Path,
    arch: Arch = "cross-attention",
    history: int = 1,
    cameras: Sequence[str] = ("wrist", "front"),
) -> ValueCheckpoint:
    return make_value_checkpoint(folder, (*TASKS, *SUBTASKS), cameras, arch, history)


def recorded(root: Path) -> LeRobotDataset:
    return LeRobotDataset("local/sample", root=root, video_backend="pyav", return_uint8=True)


def by_hand(checkpoint: ValueCheckpoint, root: Path, text: str = "task") -> np.ndarray:
    """(F, 201): one frame at a time, on pictures that LeRobot's dataset reads."""
    assert checkpoint.interface
    model, config = load_value_model(checkpoint), checkpoint.config
    frames = recorded(root)
    rows, first = [], 0
    for length in LENGTHS:
        for frame in range(length):
            views = []
            for camera in checkpoint.interface.cameras:
                for back in range(config.history - 1, -1, -1):
                    seen = frames[first + max(0, frame - 3 * back)]  # 0.3 s at 10 fps
                    picture = seen[f"observation.images.{camera}"]
                    views.append(model.encode(fit_pictures(picture[None], config.image_size))[0])
            features = torch.stack(views)[None]
            tokens = value_tokens(
                checkpoint.tokenizer,
                [frames[first + frame][text] or "-"],
                config,
                len(checkpoint.interface.cameras),
            )
            mask = torch.ones(features.shape[:2], dtype=torch.bool)
            rows.append(model(features, mask, tokens.ids, tokens.mask).softmax(-1)[0])
        first += length
    return torch.stack(rows).detach().numpy()


@pytest.mark.parametrize("arch", ["cross-attention", "stitched"])
@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_predictions_are_those_of_one_frame_after_the_other(
    dataset: Path, tmp_path: Path, arch: Arch, history: int, cached: bool
) -> None:
    some = checkpoint(tmp_path / "value", arch, history)
    cache = tmp_path / "cache" if cached else None
    predicted = predict_values(
        some, dataset, range(4), batch_size=4, workers=0, device="cpu", cache=cache
    )
    expected = by_hand(some, dataset)
    np.testing.assert_allclose(predicted.probabilities, expected, atol=3e-5 if cached else 1e-6)
    np.testing.assert_allclose(
        predicted.value, expected @ np.linspace(-1, 0, 201), atol=1e-3 if cached else 1e-5
    )
    assert np.ptp(expected, axis=0).max() > 1e-3  # it tells frames apart
    np.testing.assert_array_equal(predicted.episode, np.repeat(range(4), LENGTHS))
    np.testing.assert_array_equal(predicted.frame, np.concatenate([*map(np.arange, LENGTHS)]))
    assert [predicted.task[row] for row in (0, 9, 13)] == [TASKS[0], TASKS[1], TASKS[0]]


def test_some_frames_of_some_episodes_have_the_same_values(dataset: Path, tmp_path: Path) -> None:
    some = checkpoint(tmp_path / "value", history=2)
    every = predict_values(some, dataset, range(4), workers=0, device="cpu")
    part = predict_values(some, dataset, [3, 2], stride=5, batch_size=2, workers=1, device="cpu")
    assert list(zip(part.episode, part.frame, strict=True)) == [
        *((2, frame) for frame in range(0, 22, 5)),
        *((3, frame) for frame in (0, 5)),
    ]
    rows = [13, 18, 23, 28, 33, 35, 40]
    np.testing.assert_allclose(part.probabilities, every.probabilities[rows], atol=1e-6)


def test_subtasks_are_told_where_there_are_some(dataset: Path, tmp_path: Path) -> None:
    some = checkpoint(tmp_path / "value")
    predicted = predict_values(some, dataset, range(4), workers=0, device="cpu", text="subtask")
    subtasks = recorded(dataset).hf_dataset["subtask"]
    rows = [row for row, text in enumerate(subtasks) if text]
    assert 0 < len(rows) < sum(LENGTHS)
    told = [predicted.task[row] for row in range(len(predicted))]
    assert told == [subtasks[row] for row in rows]
    assert set(told) == set(SUBTASKS)
    expected = by_hand(some, dataset, "subtask")[rows]
    np.testing.assert_allclose(predicted.probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_picture_is_encoded_once(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    encoded = []

    def counting(model: Any, pictures: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pictures))
        return value_features.encode_pictures(model, pictures)

    monkeypatch.setattr(value_predictions, "encode_pictures", counting)
    some = checkpoint(tmp_path / "value", history=3)
    options: dict[str, Any] = {"batch_size": 2, "workers": 0, "device": "cpu", "stride": stride}
    predicted = predict_values(some, dataset, range(4), **options)
    needed = {
        (episode, max(0, frame - 3 * back))
        for episode, length in enumerate(LENGTHS)
        for frame in range(0, length, stride)
        for back in range(3)
    }
    assert sum(encoded) == predicted.pictures == 2 * len(needed)


def test_only_pictures_that_were_read_are_noted_for_later(dataset: Path, tmp_path: Path) -> None:
    """What is to come would fill the memory of whoever labels a large dataset."""
    some, read = checkpoint(tmp_path / "value", history=3), set()
    for block in cut_blocks(open_frames(some, dataset, range(4), 1, "task"), 2):
        read |= {row for stretch in block.new for row in stretch.rows.tolist()}
        assert block.later <= read


def test_episodes_come_one_by_one(dataset: Path, tmp_path: Path) -> None:
    some = checkpoint(tmp_path / "value")
    parts = list(predict_episodes(some, dataset, range(4), workers=0, device="cpu"))
    assert [set(part.episode) for part in parts] == [{0}, {1}, {2}, {3}]
    assert [len(part) for part in parts] == list(LENGTHS)


def test_a_camera_that_is_not_there_is_an_error(dataset: Path, tmp_path: Path) -> None:
    some = checkpoint(tmp_path / "value", cameras=("front", "side"))
    with pytest.raises(DataError, match="has no camera 'side', only front, wrist"):
        predict_values(some, dataset, [0], workers=0, device="cpu")


def test_a_missing_picture_is_an_error_also_in_a_worker(dataset: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(dataset, tmp_path / "set"))
    (video,) = (broken / "videos/observation.images.front").rglob("*.mp4")
    video.write_bytes(video.read_bytes()[:2000])
    some = checkpoint(tmp_path / "value")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"front.*\.mp4 cannot be read") as raised:
            predict_values(some, broken, [0], workers=workers, device="cpu")
        assert "\n" not in str(raised.value)


def test_what_cannot_be_asked_for_is_refused(dataset: Path, tmp_path: Path) -> None:
    some = checkpoint(tmp_path / "value")
    with pytest.raises(DataError, match="episode 4 is not in"):
        predict_values(some, dataset, [4])
    with pytest.raises(DataError, match="no episode"):
        predict_values(some, dataset, [])
    with pytest.raises(DataError, match="stride 0"):
        predict_values(some, dataset, [0], stride=0)
    with pytest.raises(CheckpointError, match="aligned only"):
        predict_values(replace(some, interface=None), dataset, [0])


def test_pictures_in_order_are_those_that_lerobot_reads(dataset: Path) -> None:
    frames = recorded(dataset)
    source = value_pictures.open_pictures(dataset, ("front",))
    info = read_info(dataset)
    table = read_frame_table(dataset, info["features"], FPS, range(4))
    for rows in ([13, 14, 17, 34], [13, 30], [30], list(range(13, 35))):
        stretch = value_pictures.Stretch("front", np.array(rows))
        (pictures,) = value_pictures.read_stretches(source, table, [stretch], 0)
        for row, picture in zip(rows, pictures, strict=True):
            assert torch.equal(picture, frames[row]["observation.images.front"])
