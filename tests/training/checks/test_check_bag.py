# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from bag_samples import (
    EPOCH,
    MS,
    SECOND,
    STORE,
    Message,
    Recording,
    header,
    image,
    picture,
    position,
    sample_contract,
    sample_messages,
    stamp_of,
    write_bag,
)

from vla_nodes.contract import contract_digest, load_contract
from vla_training.data.bags.message_types import _VIDEO_TYPES
from vla_training.data.checks.bag import check_bag
from vla_training.data.checks.check import main

FRONT, WRIST = "/front/image", "/wrist/image/compressed"
JOINTS, LEADER = "/joint_states", "/leader/joint_states"

Edit = Callable[[Message, int], Message | None]


def restamp(message: Message, stamp: int) -> Message:
    message.value.header = header(stamp)
    return message


def set_joint(message: Message, joint: int, value: float) -> Message:
    message.value.position = message.value.position.copy()
    message.value.position[joint] = value
    return message


def black(message: Message) -> Message:
    message.value.data = np.zeros_like(message.value.data)
    return message


def messages(edits: dict[str, Edit] | None = None, **recording: object) -> list[Message]:
    """Messages of the sample arm, some of them changed; ``age`` counts ns from the start."""
    result = []
    for message in sample_messages(Recording(**recording)):
        edit = (edits or {}).get(message.topic)
        changed = edit(message, stamp_of(message) - EPOCH) if edit else message
        if changed is not None:
            result.append(changed)
    return sorted(result, key=lambda m: m.receive)


def without(topic: str) -> list[Message]:
    return [m for m in messages() if m.topic != topic]


def drop(first: float, last: float) -> Edit:
    """Leaves out what lies between two times in seconds."""
    return lambda m, age: None if first * SECOND < age < last * SECOND else m


def found(folder: Path, recorded: list[Message], **settings: object) -> dict[tuple[str, str], list]:
    """Findings by check and subject."""
    contract = sample_contract(folder)
    bag = write_bag(folder / "bag", recorded, **settings)
    findings: dict[tuple[str, str], list] = {}
    for finding in check_bag(bag, contract):
        findings.setdefault((finding.check, finding.subject), []).append(finding)
    return findings


def test_a_good_bag_passes_every_check(tmp_path, capsys):
    contract = sample_contract(tmp_path)
    bag = write_bag(
        tmp_path / "bag",
        messages(jitter=2.0),
        custom={"task": "stack the cups", "contract_digest": contract_digest(contract)},
    )
    report = tmp_path / "report.json"
    arguments = ["bag", str(bag), "--contract", str(tmp_path / "sample_arm.yaml")]
    assert main([*arguments, "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    assert content["level"] == "ok"
    assert {finding["level"] for finding in content["findings"]} == {"ok"}
    checks = {finding["check"] for finding in content["findings"]}
    assert checks == {
        *("file", "topic", "task", "stamps", "delay", "rate", "gap", "skew", "joints", "jump"),
        *("limits", "still", "stuck", "idle", "picture", "black", "duplicate", "frozen"),
    }
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.rstrip().endswith("0 warn, 0 fail")


FROZEN = image(EPOCH, picture(EPOCH, 64, 48)).data

FAULTS = {
    # what is done to the recording: (messages, check, subject, level, words of the sentence)
    "no camera": (lambda: without(FRONT), "topic", FRONT, "fail", "not in the bag"),
    "no leader": (lambda: without(LEADER), "topic", LEADER, "fail", "action arm"),
    "slow joints": (
        lambda: messages(joint_period=125.0),
        *("rate", JOINTS, "fail", "8.0 Hz"),
    ),
    "slow camera": (
        lambda: messages({FRONT: lambda m, age: m if age // (100 * MS) % 2 == 0 else None}),
        *("rate", FRONT, "warn", "more than once"),
    ),
    "camera gap": (
        lambda: messages({FRONT: drop(1.05, 1.45)}),
        *("gap", FRONT, "fail", "longest 0.500 s, from 0.998 s"),
    ),
    "joint gap": (
        lambda: messages({JOINTS: drop(1.0, 1.2)}),
        *("gap", JOINTS, "fail", "1 gap over the limit"),
    ),
    "skew": (
        lambda: messages({JOINTS: drop(1.0, 1.6)}),
        *("skew", JOINTS, "fail", "0.300 s from front at 1.298 s"),
    ),
    "camera late": (
        lambda: messages({WRIST: lambda m, age: m if age > SECOND else None}, seconds=0.9),
        *("topic", WRIST, "fail", "not in the bag"),
    ),
    "no stamps": (
        lambda: messages({JOINTS: lambda m, _: restamp(m, 0)}),
        *("stamps", JOINTS, "fail", "301 stamps empty"),
    ),
    "stamps ahead": (
        lambda: messages({JOINTS: lambda m, age: restamp(m, EPOCH + age + SECOND)}),
        *("stamps", JOINTS, "fail", "in the future of their receipt"),
    ),
    "clock set back": (
        lambda: messages(
            {JOINTS: lambda m, age: restamp(m, EPOCH + age - SECOND * (age > 2 * SECOND))}
        ),
        *("stamps", JOINTS, "fail", "set back by half a second or more, first at 2.01"),
    ),
    "stamp twice": (
        lambda: messages(
            {FRONT: lambda m, age: restamp(m, EPOCH + age - 100 * MS * (age == SECOND))}
        ),
        *("stamps", FRONT, "warn", "1 stamp the same as the one before, first at 1.013 s"),
    ),
    "stamp before": (
        lambda: messages(
            {FRONT: lambda m, age: restamp(m, EPOCH + age - 150 * MS * (age == SECOND))}
        ),
        *("stamps", FRONT, "warn", "1 stamp before the one before"),
    ),
    "late pictures": (
        lambda: messages(camera_delay=400.0),
        *("delay", FRONT, "fail", "median 400.0 ms"),
    ),
    "other clock": (
        lambda: messages(dict.fromkeys([FRONT, WRIST], lambda m, age: restamp(m, age + SECOND))),
        *("delay", FRONT, "warn", "another clock"),
    ),
    "joint missing": (
        lambda: messages(
            {
                JOINTS: lambda m, _: m._replace(
                    value=type(m.value)(
                        m.value.header,
                        ["pan", "lift"],
                        m.value.position[1:],
                        np.zeros(0),
                        np.zeros(0),
                    )
                )
            }
        ),
        *("joints", JOINTS, "fail", "joint grip is missing in 301 messages"),
    ),
    "NaN": (
        lambda: messages({LEADER: lambda m, age: set_joint(m, 1, np.nan) if age == SECOND else m}),
        *("joints", LEADER, "fail", "position of joint pan is not a finite number in 1 message"),
    ),
    "glitch": (
        lambda: messages({JOINTS: lambda m, age: set_joint(m, 2, 3.9) if age == SECOND else m}),
        *("jump", JOINTS, "fail", "lift jumps 2 times"),
    ),
    "beyond limits": (
        lambda: messages({LEADER: lambda m, _: set_joint(m, 0, m.value.position[0] * 5)}),
        *("limits", LEADER, "warn", "grip is outside [-4, 4]"),
    ),
    "degrees": (
        lambda: messages({JOINTS: lambda m, _: set_joint(m, 0, np.degrees(m.value.position[0]))}),
        *("limits", JOINTS, "fail", "is its unit"),
    ),
    "joint unplugged": (
        lambda: messages({JOINTS: lambda m, _: set_joint(m, 0, 0.1)}),
        *("still", JOINTS, "warn", "grip never moves"),
    ),
    "driver hung": (
        lambda: messages(
            {
                JOINTS: lambda m, age: (
                    m if age < SECOND else Message(m.receive, m.topic, m.type, hung(age))
                )
            },
            seconds=4.0,
        ),
        *("stuck", JOINTS, "fail", "while the actions move"),
    ),
    "idle": (
        lambda: messages({LEADER: lambda m, age: m._replace(value=measured(age))}),
        *("idle", LEADER, "warn", "pan, lift, grip is its measured position"),
    ),
    "camera hung": (
        lambda: messages(
            {FRONT: lambda m, age: frozen(m) if age > SECOND else m},
        ),
        *("frozen", FRONT, "fail", "20 pictures in a row are the same, from 1.098 s while"),
    ),
    "repeated pictures": (
        lambda: messages(
            {
                FRONT: lambda m, age: m._replace(
                    value=image(stamp_of(m), picture(EPOCH + age // (200 * MS) * 200 * MS, 64, 48))
                )
            }
        ),
        *("duplicate", FRONT, "warn", "of 30 pictures taken in motion repeat"),
    ),
    "black pictures": (
        lambda: messages({FRONT: lambda m, age: black(m) if age >= 2 * SECOND else m}),
        *("black", FRONT, "fail", "11 of 31 pictures looked at are black, first at 1.998 s"),
    ),
    "other size": (
        lambda: messages(
            {FRONT: lambda m, age: m._replace(value=image(stamp_of(m), picture(age, 32, 48)))}
        ),
        *("picture", FRONT, "fail", "width is 32, expected 64 in 31 pictures"),
    ),
    "cut picture": (
        lambda: messages({WRIST: lambda m, age: cut(m) if age == SECOND else m}),
        *("picture", WRIST, "fail", "cut short"),
    ),
}


def hung(age: int) -> object:
    """A message of now with the joints of one second after the start."""
    from bag_samples import joint_state

    values = position(EPOCH + SECOND)[[2, 0, 1]]
    return joint_state(EPOCH + age, ["grip", "pan", "lift"], values)


def measured(age: int) -> object:
    from bag_samples import joint_state

    return joint_state(EPOCH + age, ["pan", "lift", "grip"], position(EPOCH + age))


def frozen(message: Message) -> Message:
    message.value.data = FROZEN
    return message


def cut(message: Message) -> Message:
    message.value.data = message.value.data[:-20]
    return message


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_named(tmp_path, name):
    make, check, subject, level, words = FAULTS[name]
    findings = found(tmp_path, make())[check, subject]
    assert [f.level for f in findings] == [level]
    assert words in findings[0].text


def test_a_robot_at_rest_is_warned_of_and_does_not_fail(tmp_path):
    def rest(message: Message, age: int) -> Message:
        return message._replace(value=hung(age))

    def still(message: Message, _: int) -> Message:
        return frozen(message)

    findings = found(tmp_path, messages({JOINTS: rest, LEADER: rest, FRONT: still}))
    assert findings["stuck", JOINTS][0].level == "warn"
    assert findings["frozen", FRONT][0].level == "warn"
    assert findings["still", JOINTS][0].level == "warn"
    levels = {f.level for group in findings.values() for f in group}
    assert levels == {"ok", "warn"}


def test_a_topic_of_another_type_is_named(tmp_path):
    recorded = [
        m._replace(type="std_msgs/msg/String", value=STORE.types["std_msgs/msg/String"](data="x"))
        if m.topic == JOINTS
        else m
        for m in messages()
    ]
    finding = found(tmp_path, recorded)["topic", JOINTS][0]
    assert finding.level == "fail"
    assert "is a std_msgs/msg/String; the contract says sensor_msgs/msg/JointState" in finding.text


def test_task_and_contract_of_the_recording_are_compared(tmp_path):
    custom = {"task": "paint the \x1b[31mwall", "contract_digest": "f" * 64}
    findings = found(tmp_path, messages(seconds=1.0), custom=custom)
    (task,) = (f for (check, _), group in findings.items() for f in group if check == "task")
    assert task.level == "warn"
    assert "\x1b" not in task.subject
    assert findings["contract", "bag"][0].level == "warn"


def test_a_bag_that_is_cut_short_is_checked_as_far_as_it_goes(tmp_path, capsys):
    sample_contract(tmp_path)
    bag = write_bag(tmp_path / "bag", messages(seconds=1.0))
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    main(["bag", str(file), "--contract", str(tmp_path / "sample_arm.yaml")])
    assert "warn    file" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a bag" * 100])
def test_a_file_that_is_no_bag_fails(tmp_path, content):
    sample_contract(tmp_path)
    file = tmp_path / "odd.mcap"
    file.write_bytes(content)
    assert main(["bag", str(file), "--contract", str(tmp_path / "sample_arm.yaml")]) == 1


def test_arguments_that_cannot_be_used_are_told_apart_from_failures(tmp_path, capsys):
    sample_contract(tmp_path)
    contract = str(tmp_path / "sample_arm.yaml")
    assert main(["bag", str(tmp_path / "nowhere"), "--contract", contract]) == 2
    assert main(["bag", str(tmp_path), "--contract", str(tmp_path / "none.yaml")]) == 2
    assert main(["dataset", str(tmp_path), "--against", str(tmp_path)]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("vla-check: ")
    with pytest.raises(SystemExit) as stopped:
        main(["bag"])
    assert stopped.value.code == 2


def commanded(kind: str, stamp: int, joints: list[str]) -> object:
    """A command that leads the joints by half a second."""
    values = position(stamp + SECOND // 2)
    if kind == "std_msgs/msg/Float64MultiArray":
        layout = STORE.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        return STORE.types[kind](layout=layout, data=values)
    duration = STORE.types["builtin_interfaces/msg/Duration"](sec=0, nanosec=50 * MS)
    empty = np.zeros(0)
    point = STORE.types["trajectory_msgs/msg/JointTrajectoryPoint"](
        positions=values,
        velocities=empty,
        accelerations=empty,
        effort=empty,
        time_from_start=duration,
    )
    return STORE.types[kind](header=header(stamp), joint_names=joints, points=[point])


@pytest.mark.parametrize(
    "kind", ["trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray"]
)
def test_commands_are_read_from_their_own_topic(tmp_path, kind):
    sample_contract(tmp_path)
    path = tmp_path / "sample_arm.yaml"
    document = yaml.safe_load(path.read_text())
    del document["actions"]["arm"]["recorded"]
    document["actions"]["arm"]["type"] = kind
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    recorded = messages() + [
        Message(stamp, "/arm/command", kind, commanded(kind, stamp, ["pan", "lift", "grip"]))
        for stamp in range(EPOCH, EPOCH + 3 * SECOND, 50 * MS)
    ]
    bag = write_bag(tmp_path / "bag", sorted(recorded, key=lambda m: m.receive))
    findings = check_bag(bag, load_contract(path))
    assert {f.level for f in findings} == {"ok"}
    assert {f.check for f in findings if f.subject == "/arm/command"} >= {"joints", "jump", "idle"}


def packets(pictures: list[np.ndarray]) -> list[bytes]:
    """An H.264 stream, a packet a picture."""
    height, width = pictures[0].shape[:2]
    context = av.VideoCodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.framerate, context.time_base = 10, Fraction(1, 10)
    context.gop_size = 10
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    frames = [av.VideoFrame.from_ndarray(p, format="rgb24") for p in pictures]
    return [bytes(p) for frame in [*frames, None] for p in context.encode(frame)]


@pytest.mark.parametrize("lost", [0, 3])
def test_pictures_of_a_video_stream_are_decoded(tmp_path, lost):
    sample_contract(tmp_path)
    path = tmp_path / "sample_arm.yaml"
    kind = "foxglove_msgs/msg/CompressedVideo"
    document = yaml.safe_load(path.read_text())
    document["cameras"]["front"] |= {"type": kind, "encoding": "h264"}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    stamps = [EPOCH + k * 100 * MS for k in range(31)]
    data = packets([picture(stamp, 64, 48) for stamp in stamps])
    from rosbags.typesys import get_types_from_msg

    STORE.register(
        get_types_from_msg(_VIDEO_TYPES[kind], kind)
    ) if kind not in STORE.types else None
    video = [
        Message(
            stamp + 15 * MS,
            FRONT,
            kind,
            STORE.types[kind](
                timestamp=header(stamp).stamp,
                frame_id="",
                data=np.frombuffer(d, np.uint8),
                format="h264",
            ),
        )
        for stamp, d in list(zip(stamps, data, strict=True))[lost:]
    ]
    recorded = sorted(without(FRONT) + video, key=lambda m: m.receive)
    findings = check_bag(write_bag(tmp_path / "bag", recorded), load_contract(path))
    front = {f.check: f for f in findings if f.subject == FRONT}
    if lost:
        assert front["picture"].level == "warn"
        assert "7 packets before the video's first key frame" in front["picture"].text
    else:
        assert {f.level for f in findings} == {"ok"}
        assert "31 of them decoded" in front["picture"].text
