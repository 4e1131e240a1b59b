# SPDX-License-Identifier: Apache-2.0
import copy
import math

import pytest

from vla_nodes.contract import Checks, ContractError, Gripper, JointLimits, Qos, Recorded

REMOVED = object()
CAMERA = "cameras.front"
STATE = "states.arm"
ACTION = "actions.arm"
LIMITS = "actions.arm.limits"


def put(document: dict, key: str, value: object) -> dict:
    """A copy with the dotted key set or removed."""
    document = copy.deepcopy(document)
    *parents, last = key.split(".")
    place = document
    for name in parents:
        place = place.setdefault(name, {})
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return document


REFUSED = [
    # key, value, words of the error (the key too, where it is another one)
    ("fsp", 20, "did you mean fps?"),
    (f"{CAMERA}.max_aeg", 1, "did you mean max_age?"),
    (f"{STATE}.qos", {"dept": 1}, "did you mean depth?"),
    (f"{LIMITS}.joints.a.velocty", 1, "did you mean velocity?"),
    (f"{CAMERA}.zzz", 1, "use one of topic, type"),
    *[
        (key, REMOVED, "no such key")
        for key in (
            *("robot", "fps", "timeline", "reference", "max_skew", "states", "actions"),
            *(f"{CAMERA}.{k}" for k in ("topic", "type", "encoding", "width", "height", "max_age")),
            *(f"{STATE}.{k}" for k in ("topic", "joints", "max_age")),
            *(f"{ACTION}.{k}" for k in ("topic", "type", "joints", "limits")),
        )
    ],
    *[
        (key, value, "a finite number above 0")
        for key in (
            "max_skew",
            f"{CAMERA}.max_age",
            f"{STATE}.max_age",
            f"{LIMITS}.default.velocity",
            f"{LIMITS}.default.acceleration",
            f"{LIMITS}.joints.a.velocity",
        )
        for value in (True, "fast", None, [1], math.nan, math.inf, -math.inf, 0, -1.0)
    ],
    *[
        ("fps", value, "a finite number from 0.1 up to 1000 (Hz)")
        for value in (True, "fast", "nan", None, [20], math.nan, math.inf, 0, -20, 1e-9, 1001)
    ],
    ("fps", 2**64, "an integer of 65 bits"),
    ("fps", 1000.5, "up to 1000"),
    ("fps", "20", "20.0 without quotes"),
    (f"{CAMERA}.max_age", 150, "up to 10 (s)"),
    ("max_skew", 60, "up to 10 (s)"),
    ("timeline", "headers", "did you mean header?"),
    ("timeline", True, "one of header, receive"),
    ("robot", "my robot", "letters, digits and _"),
    ("robot", "r" * 65, "65 characters"),
    ("robot", 5, "in quotes"),
    ("reference", "frnt", "did you mean front?"),
    ("reference", "elsewhere", "no camera or state source"),
    ("cameras", [], "a mapping"),
    ("cameras", None, "found nothing"),
    ("states", {}, "at least 1"),
    ("actions", {}, "at least 1"),
    (f"{CAMERA}.topic", "front/image", "absolute topic"),
    (f"{CAMERA}.topic", "/front//image", "absolute topic"),
    (f"{CAMERA}.topic", "/front/image/", "absolute topic"),
    (f"{CAMERA}.topic", "/1st", "absolute topic"),
    (f"{CAMERA}.topic", "/front image", "absolute topic"),
    (f"{CAMERA}.topic", "/a\n", "absolute topic"),
    (f"{CAMERA}.topic", "/" + "a" * 200, "201 characters"),
    (f"{CAMERA}.type", "sensor_msgs/Image", "did you mean sensor_msgs/msg/Image?"),
    (f"{CAMERA}.encoding", "rgb", "did you mean rgb8?"),
    (f"{CAMERA}.width", 0, "an integer from 1"),
    (f"{CAMERA}.width", 64.0, "an integer from 1"),
    (f"{CAMERA}.width", True, "an integer from 1"),
    (f"{CAMERA}.crop", [0, 0, 65, 48], "inside the frame"),
    (f"{CAMERA}.crop", [1, 0, 64, 48], "inside the frame"),
    (f"{CAMERA}.crop", [0, 1, 64, 48], "inside the frame"),
    (f"{CAMERA}.crop", [0, 0, 0, 48], "inside the frame"),
    (f"{CAMERA}.crop", [0, 0, 64], "a list of 4"),
    (f"{STATE}.type", "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"),
    (f"{STATE}.joints", [], "a list of 1 to 256"),
    (f"{STATE}.joints", ["a"] * 257, "a list of 1 to 256"),
    (f"{STATE}.fields", [], "a list of 1 to 3"),
    (f"{STATE}.units", "degrees", "did you mean deg?"),
    (f"{STATE}.prefix", "left-", "a prefix"),
    (f"{STATE}.qos", {"reliability": "best efort"}, "did you mean best_effort?"),
    (f"{STATE}.qos", {"depth": 0}, "from 1 to 1000"),
    (f"{STATE}.qos", {"depth": 1001}, "from 1 to 1000"),
    (f"{ACTION}.type", "std_msgs/msg/Float32MultiArray", "Float64MultiArray?"),
    (f"{LIMITS}.joints.a", REMOVED, "no such key"),
    (f"{LIMITS}.joints.a.position", [1, -1], "lower bound first"),
    (f"{LIMITS}.joints.a.position", [1, 1], "lower bound first"),
    (f"{LIMITS}.joints.a.position", [1], "a list of 2"),
    (f"{LIMITS}.joints.a.position", [math.nan, 1], "a finite number"),
    (f"{LIMITS}.joints.a.position", [-math.inf, math.inf], "a finite number"),
    (f"{LIMITS}.joints.a.position", ["-1", 1], "-1.0 without quotes"),
    (f"{LIMITS}.joints.c", {"position": [0, 1]}, "no joint of this source"),
    (f"{ACTION}.grippers", {"c": {"low": 0, "high": 1}}, "no joint of this source"),
    (f"{ACTION}.grippers", {"b": {"low": 0}}, "no such key"),
    (f"{ACTION}.grippers", {"b": {"low": 0, "high": 0.05}}, "both within the limits"),
    (f"{ACTION}.grippers", {"b": {"low": -0.01, "high": 0.04}}, "both within the limits"),
    (f"{ACTION}.grippers", {"b": {"low": 0.04, "high": 0}}, "low below high"),
    (f"{ACTION}.grippers", {"a": {"low": 0, "high": 1, "threshold": 1}}, "threshold"),
    (f"{ACTION}.grippers", {"a": {"low": 0, "high": 1, "hysteresis": 0.5}}, "hysteresis"),
    (f"{ACTION}.grippers", {"a": {"low": 0, "high": 1, "hysteresis": -0.1}}, "from 0"),
    (f"{ACTION}.recorded", {"topic": "/l"}, "no such key"),
    (f"{ACTION}.recorded", {"topic": "/l", "type": "sensor_msgs/msg/JointStat"}, "JointState?"),
    ("tasks", ["ok", ""], "a sentence"),
    ("tasks", [" \t "], "a sentence"),
    ("tasks", ["x" * 513], "513 characters"),
    ("tasks", ["bell\a"], "control characters"),
    ("tasks", ["two\nlines"], "control characters"),
    ("tasks", ["same", "same"], "twice"),
    ("tasks", "clear the table", "a list"),
    ("subtasks", [5], "in quotes"),
    ("checks", [], "a mapping"),
    ("checks", {"max_dealy": 1}, "did you mean max_delay?"),
    ("checks", {"max_delay": 0}, "a finite number above 0 up to 10 (s)"),
    ("checks", {"min_joint_rate": 0}, "above 0"),
    ("checks", {"frozen_frames": 1}, "from 2"),
    ("checks", {"frozen_frames": 1.5}, "an integer"),
    ("checks", {"black_level": 256}, "up to 255"),
    ("checks", {"duplicate_share": 5}, "up to 1"),
    ("checks", {"max_joint_jump": math.nan}, "a finite number"),
]


@pytest.mark.parametrize(("key", "value", "words"), REFUSED)
def test_a_broken_rule_is_refused_with_file_key_and_remedy(document, load, key, value, words):
    with pytest.raises(ContractError) as caught:
        load(put(document, key, value))
    text = str(caught.value)
    assert "robot.yaml:" in text
    assert "found " in text
    assert words in text
    assert "\n" not in text
    assert caught.value.line >= 1
    # The key that is named lies on the way to the broken one, or below it.
    named = caught.value.key
    assert named.startswith(key) or key.startswith(named)


RECORDED = {"topic": "/leader", "type": "sensor_msgs/msg/JointState"}

REFUSED_PLACES = [
    # changes, key of the error, words
    ({f"{ACTION}.joints": ["a", "c"]}, "actions.arm.limits.joints.b", "use one of a, c"),
    (
        {f"{LIMITS}.default": {"velocity": 1}},
        "actions.arm.limits.joints.a.acceleration",
        "no such key; write a finite number above 0 (rad/s^2 or m/s^2)",
    ),
    (
        {f"{LIMITS}.default": {"acceleration": 1}},
        "actions.arm.limits.joints.a.velocity",
        "no such key; write a finite number above 0 (rad/s or m/s)",
    ),
    ({f"{STATE}.joints": ["a", "b", "a"]}, "states.arm.joints[2]", "'a' twice"),
    ({f"{STATE}.fields": ["position", "position"]}, "states.arm.fields[1]", "twice"),
    ({f"{ACTION}.joints": ["a", "a"]}, "actions.arm.joints[1]", "'a' twice"),
    ({f"{STATE}.joints": ["a", ""]}, "states.arm.joints[1]", "joint's name"),
    ({f"{STATE}.joints": ["a", 1]}, "states.arm.joints[1]", "in quotes"),
    ({f"{STATE}.fields": ["position", "torque"]}, "states.arm.fields[1]", "effort"),
    ({f"{STATE}.fields": ["velocity"]}, "actions.arm.joints", "no state measures"),
    ({f"{STATE}.prefix": "left_"}, "actions.arm.joints", "a, whose position no state measures"),
    ({f"{STATE}.joints": ["a"]}, "actions.arm.joints", "b, whose position no state measures"),
    ({f"{CAMERA}.encoding": "jpeg"}, "cameras.front.encoding", "no encoding of sensor_msgs/msg/Im"),
    (
        {f"{CAMERA}.type": "sensor_msgs/msg/CompressedImage"},
        "cameras.front.encoding",
        "use one of jpeg, png",
    ),
    ({f"{CAMERA}.crop": [-1, 0, 5, 5]}, "cameras.front.crop[0]", "an integer from 0"),
    (
        {"states.front": {"topic": "/s", "joints": ["z"], "max_age": 1}},
        "states.front",
        "the name of a camera",
    ),
    (
        {"states.more": {"topic": "/s", "joints": ["b"], "max_age": 1}},
        "states.more.joints",
        "b.position, which arm has too; give one of the two a prefix",
    ),
    ({"cameras": {"bad-name": {}}}, "cameras.bad-name", "letters, digits and _"),
    (
        {f"{ACTION}.recorded": RECORDED | {"joints": ["a"]}},
        "actions.arm.recorded.joints",
        "1 joints for an action of 2",
    ),
    (
        {f"{ACTION}.recorded": RECORDED | {"joints": ["a", "a"]}},
        "actions.arm.recorded.joints[1]",
        "twice",
    ),
    (
        {f"{ACTION}.recorded": RECORDED | {"sample": "last"}},
        "actions.arm.recorded.sample",
        "use one of frame, next",
    ),
]


@pytest.mark.parametrize(("changes", "key", "words"), REFUSED_PLACES)
def test_an_error_names_the_exact_place(document, load, changes, key, words):
    for place, value in changes.items():
        document = put(document, place, value)
    with pytest.raises(ContractError) as caught:
        load(document)
    assert caught.value.key == key
    assert words in str(caught.value)


def test_two_sources_may_not_act_on_one_joint(document, load):
    document["actions"]["other"] = copy.deepcopy(document["actions"]["arm"]) | {"topic": "/other"}
    with pytest.raises(ContractError, match=r"actions\.other\.joints: found a, which arm has too"):
        load(document)


def test_two_sources_may_not_command_one_topic(document, load):
    document["states"]["other"] = document["states"]["arm"] | {"prefix": "left_"}
    document["actions"]["other"] = document["actions"]["arm"] | {"prefix": "left_"}
    with pytest.raises(ContractError, match=r"actions\.other\.topic: found /arm/joint_trajectory"):
        load(document)


def test_defaults_are_filled_in(document, load):
    document["actions"]["arm"]["grippers"] = {"b": {"low": 0.0, "high": 0.04}}
    document["actions"]["arm"]["recorded"] = RECORDED
    contract = load(document)
    assert contract.cameras[0].qos == Qos("best_effort", 5)
    assert contract.cameras[0].crop is None
    assert contract.states[0].fields == ("position",)
    assert contract.states[0].units == "rad"
    (action,) = contract.actions
    assert action.limits == (JointLimits(-1, 1, 2, 10), JointLimits(0, 0.04, 2, 10))
    assert action.grippers[0] is None
    assert action.grippers[1] == Gripper(0.0, 0.04, pytest.approx(0.02), pytest.approx(0.004))
    assert action.recorded == Recorded(
        "/leader", "sensor_msgs/msg/JointState", ("a", "b"), "frame", "rad"
    )
    assert contract.tasks == contract.subtasks == ()
    assert contract.checks == Checks()


def test_bounds_for_recorded_data_are_read(document, load):
    document["checks"] = {"max_skew": 0.02, "frozen_frames": 30}
    assert load(document).checks == Checks(max_skew=0.02, frozen_frames=30)


def test_a_joint_goes_before_the_default(document, load):
    document["actions"]["arm"]["limits"]["joints"]["b"] |= {"velocity": 0.1, "acceleration": 1}
    limits = load(document).limits
    assert (limits[0].velocity, limits[0].acceleration) == (2, 10)
    assert (limits[1].velocity, limits[1].acceleration) == (0.1, 1)


def test_a_robot_without_cameras_refers_to_a_state(document, load):
    del document["cameras"]
    document["reference"] = "arm"
    contract = load(document)
    assert contract.cameras == ()
    assert contract.reference == "arm"


def test_integers_are_numbers_and_come_out_as_floats(document, load):
    contract = load(document)
    assert isinstance(contract.fps, float)
    assert all(isinstance(limit.velocity, float) for limit in contract.limits)


def test_two_arms_are_told_apart_by_prefix(document, load):
    for room in ("states", "actions"):
        arm = document[room].pop("arm")
        for side in ("left", "right"):
            document[room][side] = arm | {"prefix": f"{side}_", "topic": f"/{side}/{room}"}
    contract = load(document)
    assert contract.action_names == ("left_a", "left_b", "right_a", "right_b")
    assert contract.measured_index == (0, 1, 2, 3)
