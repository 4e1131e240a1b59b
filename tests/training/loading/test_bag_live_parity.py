# SPDX-License-Identifier: Apache-2.0
"""What is trained on, against what the robot's own nodes would have observed."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from bag_samples import MS, SECOND, Recording, sample_contract, sample_messages, write_bag
from rosbags.highlevel import AnyReader

from vla_nodes.observation.assembler import ObservationAssembler
from vla_nodes.observation.observation import Observation
from vla_training.data.conversion import convert
from vla_training.data.loading.training_set import TrainingSet

TASK = "stack the cups"
CHUNK = 6


@pytest.fixture(scope="module", params=[0.0, 8.0], ids=["steady", "jittering"])
def converted(request, tmp_path_factory):
    """A contract, a recording with that much jitter in ms, and the dataset made of it."""
    folder = tmp_path_factory.mktemp("parity")
    contract = sample_contract(folder)
    messages = sample_messages(Recording(seconds=2.5, jitter=request.param, seed=3))
    bag = write_bag(folder / "bag", messages, custom={"task": TASK, "outcome": "success"})
    arguments = ["--vcodec", "h264", "--crf", "5", "--workers", "1"]
    arguments += ["--contract", str(folder / "sample_arm.yaml"), "--out", str(folder / "data")]
    assert convert.main([str(bag), *arguments]) == 0
    return contract, bag, folder / "data"


def live_observations(contract, bag, stamps):
    """Observations at those stamps, each made 50 ms later by someone who heard the bag played."""
    assembler = ObservationAssembler(contract)
    cameras = {camera.topic: camera.name for camera in contract.cameras}
    states = {state.topic: state.name for state in contract.states}
    waiting = list(stamps)
    with AnyReader([bag]) as reader:
        for connection, receive, data in reader.messages():
            while waiting and receive > waiting[0] + 50 * MS:
                yield assembler.observe(waiting.pop(0))
            message = reader.deserialize(data, connection.msgtype)
            stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
            if connection.topic in cameras:
                assembler.add_image(cameras[connection.topic], message, stamp, receive)
            elif connection.topic in states:
                assembler.add_state(states[connection.topic], message, stamp, receive)
    for stamp in waiting:
        yield assembler.observe(stamp)


def test_training_sees_what_the_robot_would_have_seen(converted):
    contract, bag, data = converted
    items = TrainingSet(data, CHUNK)
    stamps = bag_times(data)
    assert len(items) == len(stamps) >= 22
    for item, live in zip(items, live_observations(contract, bag, stamps), strict=True):
        assert isinstance(live, Observation)
        np.testing.assert_array_equal(item.state.numpy(), live.state.astype(np.float32))
        assert item.images.keys() == live.images.keys()
        for camera, picture in live.images.items():
            assert psnr(item.images[camera].permute(1, 2, 0).numpy(), picture) > 38.0
        assert item.task == TASK
        assert item.outcome == 1


def test_an_item_s_picture_is_nearer_to_its_own_moment_than_to_any_other(converted):
    """A shift by one frame would pass for a codec's error in a slow scene."""
    contract, bag, data = converted
    live = list(live_observations(contract, bag, bag_times(data)))
    for index, item in enumerate(TrainingSet(data, CHUNK)):
        for camera, picture in item.images.items():
            seen = picture.permute(1, 2, 0).numpy()
            likeness = [psnr(seen, observation.images[camera]) for observation in live]
            assert likeness[index] == max(likeness)


def test_actions_are_the_leader_s_at_the_frames_they_are_for(converted):
    contract, bag, data = converted
    stamps = bag_times(data)
    times, positions = leader(contract, bag)
    for index, item in enumerate(TrainingSet(data, CHUNK)):
        for k in range(CHUNK):
            stamp = stamps[min(index + k, len(stamps) - 1)]
            expected = [
                np.interp(stamp - times[0], times - times[0], positions[:, j]) for j in range(3)
            ]
            np.testing.assert_allclose(item.actions[k].numpy(), expected, atol=1e-6)
            assert item.action_is_pad[k] == (index + k >= len(stamps))


def bag_times(data):
    """Stamps of the dataset's frames, ns."""
    return [
        int(t)
        for file in sorted(data.glob("data/*/*.parquet"))
        for t in pq.read_table(file)["bag_time_ns"].to_pylist()
    ]


def leader(contract, bag):
    """The leader arm's samples: (N,) int64 ns and (N, 3) rad, in the contract's order."""
    joints = contract.actions[0].recorded.joints
    times, positions = [], []
    with AnyReader([bag]) as reader:
        for connection, _, data in reader.messages():
            if connection.topic == "/leader/joint_states":
                message = reader.deserialize(data, connection.msgtype)
                times.append(message.header.stamp.sec * SECOND + message.header.stamp.nanosec)
                positions.append([message.position[message.name.index(j)] for j in joints])
    return np.array(times), np.array(positions)


def psnr(one, other):
    """dB; 100 for pictures that are the same."""
    error = np.mean((one.astype(float) - other) ** 2)
    return 10 * math.log10(255**2 / error) if error else 100.0
