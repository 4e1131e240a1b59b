# SPDX-License-Identifier: Apache-2.0
"""The value monitor on a played recording says what vla-label writes for its frames."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from rosbags.highlevel import AnyReader
from value_parity import column, replayed

from vla_nodes.contract import Contract
from vla_nodes.inference.value_runtime import ValueRuntime, load_value_runtime
from vla_nodes.models.value_checkpoint import load_value_model, write_value_checkpoint
from vla_nodes.recording.definitions import Definitions
from vla_nodes.recording.episode_writer import EpisodeWriter, Options
from vla_nodes.recording.mcap_file import Channel
from vla_nodes.recording.report import Ending, Facts
from vla_nodes.recording.streams import Stream
from vla_training.data.conversion.convert_episode import convert_episode
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.labels import frame_labels
from vla_training.data.labels.label import label
from vla_training.data.labels.value_column import Prediction
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.data.writing.video_settings import VideoSettings

# Samples of recordings and checkpoints are those of the offline package's tests.
sys.path.append(str(Path(__file__).parents[1] / "training"))

from bag_samples import MS, SECOND, STORE, Recording, sample_contract, sample_messages
from value_checkpoint_samples import make_value_checkpoint

TASK = "stack the cups"
CAMERAS = ("wrist", "front")
HISTORY_STEP = 300 * MS  # of the sample checkpoints
H264 = Settings(fps=10, video=VideoSettings("h264", 5, "ultrafast"))

type Pictures = Mapping[tuple[str, int], np.ndarray]

pytestmark = pytest.mark.timeout(600)


class Recorded(NamedTuple):
    """A recording of the sample arm, and the dataset that was made of it."""

    bag: Path
    contract: Contract
    contract_file: Path
    dataset: Path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("parity")
    contract = sample_contract(folder)
    bag = record(folder)
    job = EpisodeJob(0, (bag,), None, None, TASK, Outcome.SUCCESS)
    convert_episode(job, contract, H264, folder / "shards", lambda _: None)
    shards = sorted((folder / "shards").glob("part-*"))
    schema = DatasetSchema.of(contract, H264.fps)
    write_dataset(folder / "dataset", shards, schema, H264.video, {})
    return Recorded(bag, contract, folder / "sample_arm.yaml", folder / "dataset")


def record(folder: Path) -> Path:
    """2.5 s of the sample arm, as the recorder writes them."""
    messages = sample_messages(Recording(seconds=2.5))
    types = {message.topic: message.type for message in messages}
    definitions = Definitions()
    streams = [Stream(topic, kind) for topic, kind in types.items()]
    channels = [Channel(s.topic, s.type, definitions.of(s.type)) for s in streams]
    now = datetime(2026, 3, 4, tzinfo=UTC)
    facts = Facts(TASK, "sample_arm", "1e5", "00e7", now)
    episode = EpisodeWriter(folder, streams, channels, facts, Options())
    for message in messages:
        data = bytes(STORE.serialize_cdr(message.value, message.type))
        episode.write([*types].index(message.topic), message.receive, data)
    episode.close(Ending("success", "", now), (0,) * len(streams))
    return episode.folder


def make_checkpoint(folder: Path, history: int) -> Path:
    """A value function of random weights, to which pictures make a difference that shows."""
    made = make_value_checkpoint(folder / "faint", [TASK], CAMERAS, history=history)
    model = load_value_model(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if len(parameter) == 201:  # what makes the logits
                parameter.mul_(50.0)
    write_value_checkpoint(folder / "value", model, made.config, made.interface, made.tokenizer)
    return folder / "value"


def pictures_of(bag: Path, contract: Contract) -> Pictures:
    """Of a bag, by camera and stamp, without the code that is tested; all are lossless."""
    names = {camera.topic: camera.name for camera in contract.cameras}
    found = {}
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic in names]
        for connection, _, data in reader.messages(wanted):
            message = reader.deserialize(data, connection.msgtype)
            if "Compressed" in connection.msgtype:
                picture = cv2.cvtColor(cv2.imdecode(message.data, 1), cv2.COLOR_BGR2RGB)
            else:
                picture = message.data.reshape(message.height, message.width, 3)
            stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
            found[names[connection.topic], stamp] = picture
    return found


def pictures_in(dataset: Path, stamps: list[int]) -> Pictures:
    """Of a dataset, as LeRobot decodes them."""
    frames = LeRobotDataset("parity", root=dataset, video_backend="pyav")
    return {
        (camera, stamp): np.round(
            255.0 * frames[row][f"observation.images.{camera}"].permute(1, 2, 0).numpy()
        ).astype(np.uint8)
        for row, stamp in enumerate(stamps)
        for camera in CAMERAS
    }


def values_of(
    runtime: ValueRuntime, pictures: Pictures, shown: Mapping[int, Mapping[str, int]]
) -> np.ndarray:
    """Values at some stamps, in order; ``shown`` says of when each camera's picture was there."""
    history = runtime.checkpoint.config.history
    found = []
    for stamp in sorted(shown):
        back = [max(min(shown), stamp - ago * HISTORY_STEP) for ago in range(history)][::-1]
        views = {
            camera: runtime.encode([pictures[camera, shown[time][camera]] for time in back])
            for camera in CAMERAS
        }
        found.append(runtime.estimate(views, [TASK])[0] @ np.linspace(-1.0, 0.0, 201))
    return np.array(found)


@pytest.mark.parametrize("history", [1, 2])
def test_a_monitor_says_of_a_played_recording_what_its_labels_say(
    recorded: Recorded,
    history: int,
    domain: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = make_checkpoint(tmp_path, history)
    prediction = Prediction(folder, workers=0, device="cpu")
    label(recorded.dataset, frame_labels.Settings(), prediction=prediction, replace=True)
    stamps = column(recorded.dataset, "bag_time_ns").tolist()
    labels = column(recorded.dataset, "value")
    heard = replayed(recorded.bag, recorded.contract_file, folder, TASK, domain, tmp_path)
    live = np.array([heard[stamp].value for stamp in stamps])

    # The monitor's values follow from the recording's own pictures, and the labels from those
    # that the dataset's codec made of them: between the two there is nothing else.
    runtime = load_value_runtime(folder, "torch", "cpu", CAMERAS)
    shown = {stamp: heard[stamp].shown for stamp in stamps}
    raw = pictures_of(recorded.bag, recorded.contract)
    np.testing.assert_allclose(live, values_of(runtime, raw, shown), atol=1e-5)
    at_once = {stamp: dict.fromkeys(CAMERAS, stamp) for stamp in stamps}
    coded = pictures_in(recorded.dataset, stamps)
    np.testing.assert_allclose(labels, values_of(runtime, coded, at_once), atol=1e-5)

    # The codec's part, as of pictures that are all there with the reference's: it does not hide
    # which frame is which.
    exact = values_of(runtime, raw, at_once)
    apart, span = np.abs(labels - exact), np.ptp(exact)
    assert apart.max() < 0.2 * span
    assert apart.mean() < 0.06 * span
    assert apart.mean() < np.abs(labels[:-1] - exact[1:]).mean()
    # A picture that comes after the reference's counts for the next estimate: none is older.
    ages = [stamp - other for stamp in stamps for other in shown[stamp].values()]
    assert min(ages) >= 0
    assert max(ages) <= np.diff(stamps).max()
