# SPDX-License-Identifier: Apache-2.0
"""One episode: cut, dropped or refused where it lacks something, and what is said about it."""

import json
from dataclasses import asdict, replace

import av
import cv2
import numpy as np
import pytest
from bag_samples import (
    EPOCH,
    MS,
    SECOND,
    STORE,
    Message,
    Recording,
    header,
    image,
    joint_state,
    picture,
    sample_contract,
    sample_messages,
    stamp_of,
    write_bag,
)
from convert_samples import at, joints, merged, shards_of
from rosbags.typesys import get_types_from_msg

from vla_training.data.bags.bag import BagError
from vla_training.data.conversion.job import Settings
from vla_training.data.conversion.report import summary
from vla_training.data.schema import ACTION, BAG_TIME, STATE, SUBTASK
from vla_training.data.writing.video_settings import VideoSettings

SETTINGS = Settings(fps=10, min_length=0.5)


def silence(start, stop):
    """Leaves out joints in a time of the recording, seconds."""
    return lambda topic, stamp: topic != "/joint_states" or not start < seconds(stamp) < stop


def seconds(stamp):
    return (stamp - EPOCH) / SECOND


@pytest.fixture
def interrupted(tmp_path):
    """A bag whose joints are silent in 0.7 s to 1.5 s and again in 1.8 s to 2.2 s."""
    first, second = silence(0.7, 1.5), silence(1.8, 2.2)
    messages = joints(keep=lambda topic, stamp: first(topic, stamp) and second(topic, stamp))
    return write_bag(tmp_path / "bag", messages)


@pytest.fixture
def contract(tmp_path):
    return sample_contract(tmp_path, cameras=False)


def times(shard):
    return [round(seconds(int(t)), 3) for t in shard.columns[BAG_TIME]]


def test_an_episode_is_cut_where_it_lacks_something(tmp_path, interrupted, contract):
    shards, report = shards_of(interrupted, contract, tmp_path / "job", SETTINGS)
    # Of the sample at 0.7 s and the one at 1.5 s, those are kept that the contract's max_age of
    # 0.15 s lets frames have on both sides.
    assert [times(shard) for shard in shards] == [
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
        [2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0],
    ]
    assert (report.parts, report.short_parts) == ([8, 9], [4])
    [gap] = report.gaps
    assert (gap["stream"], gap["reason"], gap["frames"]) == ("arm", "stale", 10)
    assert [shard.source["part"] for shard in shards] == [0, 2]


def test_frames_that_lack_something_are_dropped(tmp_path, interrupted, contract):
    settings = replace(SETTINGS, on_gap="drop")
    [shard], report = shards_of(interrupted, contract, tmp_path / "job", settings)
    lacking = {0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.9, 2.0, 2.1}
    assert times(shard) == [t / 10 for t in range(31) if t / 10 not in lacking]
    assert report.parts == [21]


def test_an_episode_that_lacks_something_is_refused(tmp_path, interrupted, contract):
    settings = replace(SETTINGS, on_gap="fail")
    with pytest.raises(BagError, match=f"{interrupted}: arm is stale at 0.798 s: 0.7") as caught:
        shards_of(interrupted, contract, tmp_path / "job", settings)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "job").glob("part*"))


def test_parts_are_measured_by_their_frames(tmp_path, interrupted, contract):
    kept = {}
    for length in (0.0, 0.4, 0.41, 0.8, 0.9, 1.0):
        settings = replace(SETTINGS, min_length=length)
        _, report = shards_of(interrupted, contract, tmp_path / f"{length}", settings)
        kept[length] = report.parts
    assert kept == {0.0: [8, 4, 9], 0.4: [8, 4, 9], 0.41: [8, 9], 0.8: [8, 9], 0.9: [9], 1.0: []}


def test_clocks_that_jump_cut_an_episode_even_where_frames_are_dropped(tmp_path, contract):
    later = joints(start=EPOCH + 10 * SECOND)
    back = [m._replace(receive=m.receive + 20 * SECOND) for m in joints(start=EPOCH - 5 * SECOND)]
    path = write_bag(tmp_path / "bag", merged(later, back))
    settings = replace(SETTINGS, on_gap="drop")
    shards, report = shards_of(path, contract, tmp_path / "job", settings)
    assert [times(shard)[::30] for shard in shards] == [[10.0, 13.0], [-5.0, -2.0]]
    assert [gap["reason"] for gap in report.gaps] == ["clock_jump"]


def test_the_subtask_of_a_frame_is_the_newest_that_is_not_after_it(tmp_path, contract):
    texts = [at(-2, "/subtask", "before"), at(0.45, "/subtask", "reach"), at(2, "/subtask", "")]
    path = write_bag(tmp_path / "bag", merged(texts, joints()))
    [shard], _ = shards_of(path, contract, tmp_path / "job", subtask_topic="/subtask", start=EPOCH)
    expected = ["before"] * 5 + ["reach"] * 15 + [""] * 11
    assert shard.columns[SUBTASK].tolist() == expected[: shard.length]


def test_a_subtask_with_a_header_counts_from_its_stamp(tmp_path, contract):
    kind = "vla_interfaces/msg/Subtask"
    text = "std_msgs/Header header\nuint64 goal\nstring<=512 task\nstring<=512 subtask\n"
    STORE.register(get_types_from_msg(text, kind))

    def subtask(stamp, receive, text):
        message = STORE.types[kind](
            header=header(stamp and EPOCH + stamp * MS), goal=1, task="t", subtask=text
        )
        return Message(EPOCH + receive * MS, "/subtask", kind, message)

    said = [subtask(1000, 1500, "reach"), subtask(0, 2050, "unstamped")]
    path = write_bag(tmp_path / "bag", merged(said, joints()))
    [shard], _ = shards_of(path, contract, tmp_path / "job", subtask_topic="/subtask")
    expected = [""] * 10 + ["reach"] * 11 + ["unstamped"] * 10
    assert shard.columns[SUBTASK].tolist() == expected[: shard.length]


@pytest.mark.parametrize("text", ["a\nb", "x" * 513])
def test_a_subtask_that_cannot_be_used_is_refused(tmp_path, contract, text):
    path = write_bag(tmp_path / "bag", merged(joints(), [at(1, "/subtask", text)]))
    with pytest.raises(BagError, match="a text on /subtask"):
        shards_of(path, contract, tmp_path / "job", subtask_topic="/subtask")


def test_only_messages_received_within_the_episode_are_used(tmp_path, contract):
    path = write_bag(tmp_path / "bag", joints())
    start, stop = EPOCH + SECOND, EPOCH + 2 * SECOND
    [shard], report = shards_of(path, contract, tmp_path / "job", start=start, stop=stop)
    # Joints are received 2 ms late, the leader's arrive every 20 ms.
    received = [t for t in range(1000, 2000, 20) if 1000 <= t + 2 < 2000]
    assert seconds(int(shard.columns[BAG_TIME][0])) == pytest.approx(received[0] / 1000)
    assert seconds(int(shard.columns[BAG_TIME][-1])) <= received[-1] / 1000
    assert report.recorded_s == pytest.approx(1.0)
    assert report.start_s == pytest.approx(0.998)


def test_why_there_is_no_frame_is_told(tmp_path, contract):
    wrong = [m._replace(value=renamed(m)) for m in joints()]
    path = write_bag(tmp_path / "bag", wrong)
    shards, report = shards_of(path, contract, tmp_path / "job", SETTINGS)
    assert shards == []
    assert "arm is missing" in report.refusal
    assert report.faults["arm"] == {"joints": 301}


def renamed(message):
    if message.topic != "/joint_states":
        return message.value
    return joint_state(stamp_of(message), ["a", "b", "c"], [0.0, 0.0, 0.0])


def test_pictures_that_change_their_size_end_a_part(tmp_path):
    contract = sample_contract(tmp_path)

    def halved(message):
        if message.topic != "/front/image" or seconds(stamp_of(message)) < 1.55:
            return message
        stamp = stamp_of(message)
        return message._replace(value=image(stamp, picture(stamp, 32, 24)))

    messages = [halved(m) for m in sample_messages(Recording())]
    path = write_bag(tmp_path / "bag", messages)
    settings = Settings(fps=10, video=VideoSettings("h264"))
    [shard], report = shards_of(path, contract, tmp_path / "job", settings)
    assert times(shard) == [t / 10 for t in range(16)]
    assert report.faults["front"] == {"corrupt": 15}
    assert report.tail == 15
    assert report.ending.startswith("front is corrupt: width is 32, expected 64")
    [note] = summary([report], contract, settings)["notes"]
    assert f"{path} at 0.000 s: 1.5 s after its last frame lack an input: front is corrupt" in note


def test_pictures_are_resized(tmp_path):
    contract = sample_contract(tmp_path)
    path = write_bag(tmp_path / "bag", sample_messages(Recording(seconds=1.0)))
    settings = Settings(fps=10, video=VideoSettings("h264", crf=1), resize=(96, 64))
    [shard], _ = shards_of(path, contract, tmp_path / "job", settings)
    for camera, shown in (
        ("front", picture(EPOCH, 64, 48)),
        ("wrist", picture(EPOCH + SECOND, 64, 64)),
    ):
        with av.open(str(shard.videos[camera])) as video:
            first = next(video.decode(video=0)).to_ndarray(format="rgb24")
        expected = cv2.resize(shown, (96, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(first.astype(int) - expected).mean() < 2


def test_the_result_is_written_last_and_holds_the_report(tmp_path, contract):
    path = write_bag(tmp_path / "bag", joints())
    job = tmp_path / "job"
    job.mkdir()
    (job / "part-000").mkdir()  # left by a run that was interrupted
    [shard], report = shards_of(path, contract, job)
    assert json.loads((job / "result.json").read_text()) == asdict(report)
    assert shard.length == report.parts[0] == 31
    assert set(report.seconds) == {"reading", "frames", "encoding", "all"}
    assert sum(v for k, v in report.seconds.items() if k != "all") <= report.seconds["all"] + 0.01
    assert report.topics["/joint_states"]["messages"] == 301
    assert shard.columns[STATE].shape == shard.columns[ACTION].shape == (31, 3)
