# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from loading_samples import FPS, Sample, make_dataset

from vla_training.data.errors import DataError
from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.training_set import TrainingSet
from vla_training.data.loading.value_set import ValueSet, collate_values, history_steps


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("values") / "data", Sample(labels=True))


def frames(root, **options):
    return TrainingSet(root, 1, require=("return",), **options)


def set_return(root, row, value):
    file = next((root / "data").glob("*/*.parquet"))
    table = pq.read_table(file)
    values = table["return"].to_numpy().copy()
    values[row] = value
    place = table.column_names.index("return")
    field = table.schema.field("return")
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), file)


def test_items_hold_the_frames_before_them_and_their_return(dataset):
    lerobot = LeRobotDataset("local/sample", root=dataset, video_backend="pyav")
    values = ValueSet(frames(dataset), history=3, history_step=0.2)
    assert len(values) == 7 + 3 + 5 + 1  # the third episode has no labels
    for index, item in enumerate(values):
        row = int(values.frames.rows[index])
        truth = lerobot[row]
        assert item.task == truth["task"]
        assert item.task_return == pytest.approx(float(truth["return"]))
        start = row - int(truth["frame_index"])
        wanted = [max(start, row - 4), max(start, row - 2), row]
        for camera in ("front", "wrist"):
            pictures = torch.stack([lerobot[k][f"observation.images.{camera}"] for k in wanted])
            found = item.views[camera].float() / 255
            torch.testing.assert_close(found, pictures, atol=1e-6, rtol=0)


def test_unlabelled_subtasks_tell_nothing(dataset):
    item = ValueSet(frames(dataset))[3]
    assert item.subtask == ""
    assert np.isnan(item.subtask_return)


@pytest.mark.parametrize(("history", "seconds"), [(1, 0.5), (4, 0.5), (3, 0.01), (2, 0.26)])
def test_history_is_in_whole_frames(history, seconds):
    expected = [max(1, round(seconds * FPS)) * k for k in reversed(range(history))]
    assert history_steps(history, seconds, FPS) == expected


@pytest.mark.parametrize("value", [-1.5, 0.25])
def test_a_return_out_of_bounds_is_named(tmp_path, value):
    root = make_dataset(tmp_path / "data", Sample(labels=True))
    set_return(root, 8, value)
    with pytest.raises(DataError, match=rf"return is {value:g} in frame 1 of episode 1, expected"):
        ValueSet(frames(root))


def test_nothing_but_nan_returns_is_refused(tmp_path):
    root = make_dataset(tmp_path / "data", Sample(labels=True))
    for row in range(7):
        set_return(root, row, np.nan)
    with pytest.raises(DataError, match="no frame with return"):
        frames(root, episodes=[0])


def test_frames_of_a_camera_are_changed_alike(dataset):
    values = ValueSet(frames(dataset), history=2, history_step=10.0)
    item = values[0]  # both frames are the first
    changed = item.augmented(Augmentation(), (0, 0, 0))
    for camera in ("front", "wrist"):
        assert torch.equal(changed.views[camera][0], changed.views[camera][1])
        assert not torch.equal(changed.views[camera][1], item.views[camera][1])


def test_a_camera_that_an_item_lacks_is_masked(dataset):
    both = ValueSet(frames(dataset))
    one = ValueSet(frames(dataset, cameras=["wrist"]))
    batch = collate_values([both[0], one[1]])
    assert batch.masks["front"].tolist() == [True, False]
    assert batch.masks["wrist"].tolist() == [True, True]
    assert not batch.views["front"][1].any()
    assert len(batch) == 2


class Counted:
    """Features that tell which row they are of."""

    def read(self, camera, rows):
        return torch.tensor(rows, dtype=torch.float32)[:, None, None] + 1000 * (camera == "wrist")


def test_features_stand_for_the_pictures_of_their_rows(dataset):
    values = ValueSet(frames(dataset), history=2, history_step=0.1, features=Counted())
    assert values[5].views["front"].flatten().tolist() == [4.0, 5.0]
    assert values[7].views["wrist"].flatten().tolist() == [1007.0, 1007.0]  # an episode begins
