# SPDX-License-Identifier: Apache-2.0
import copy
import math
from pathlib import Path

import pytest

from vla_nodes.contract import ContractError, JointLimits, load_contract
from vla_nodes.contract.urdf import MAX_BYTES, UrdfLimits, read_urdf_limits

LIMIT = '<limit lower="-2" upper="3" velocity="4" effort="1"/>'


def joint(name: str = "a", kind: str = "revolute", inside: str = LIMIT) -> str:
    return f'<joint name="{name}" type="{kind}">{inside}</joint>'


def write(tmp_path: Path, *joints: str) -> Path:
    file = tmp_path / "robot.urdf"
    file.write_text(f'<robot name="r">{"".join(joints)}</robot>')
    return file


@pytest.mark.parametrize("kind", ["revolute", "prismatic"])
def test_limits_of_a_bounded_joint(tmp_path, kind):
    file = write(tmp_path, joint("z", "fixed", ""), joint(kind=kind))
    assert read_urdf_limits(file, ["a"]) == {"a": UrdfLimits(-2, 3, 4)}


def test_a_continuous_joint_has_a_velocity_only(tmp_path):
    file = write(tmp_path, joint(kind="continuous"))
    assert read_urdf_limits(file, ["a"]) == {"a": UrdfLimits(-math.inf, math.inf, 4)}


@pytest.mark.parametrize(
    ("soft", "expected"),
    [
        ('soft_lower_limit="-1" soft_upper_limit="2"', (-1, 2)),
        ('soft_lower_limit="-9" soft_upper_limit="9"', (-2, 3)),
        ('soft_upper_limit="0"', (-2, 0)),
    ],
)
def test_a_safety_controller_can_only_narrow(tmp_path, soft, expected):
    file = write(tmp_path, joint(inside=f'{LIMIT}<safety_controller k_velocity="1" {soft}/>'))
    limits = read_urdf_limits(file, ["a"])["a"]
    assert (limits.lower, limits.upper) == expected


def test_a_missing_bound_is_zero_as_the_format_says(tmp_path):
    file = write(tmp_path, joint(inside='<limit upper="1" velocity="1"/>'))
    assert read_urdf_limits(file, ["a"])["a"].lower == 0


BROKEN = {
    "absent": ((joint("b"),), "found no joints of this name"),
    "twice": ((joint(), joint()), "found 2 joints of this name"),
    "fixed": ((joint(kind="fixed"),), "'fixed'"),
    "typeless": (('<joint name="a"/>',), "type: found None"),
    "no limit": ((joint(inside=""),), "no velocity"),
    "mimic": ((joint(inside=f'{LIMIT}<mimic joint="b"/>'),), "follows another"),
    "speed 0": ((joint(inside='<limit lower="0" upper="1" velocity="0"/>'),), "found 0.0"),
    "reversed": ((joint(inside='<limit lower="1" upper="0" velocity="1"/>'),), "[1.0, 0.0]"),
    "soft reversed": (
        (joint(inside=f'{LIMIT}<safety_controller soft_lower_limit="3"/>'),),
        "[3.0, 3.0]",
    ),
    "NaN": ((joint(inside='<limit lower="nan" upper="0" velocity="1"/>'),), "limit.lower"),
    "infinite": ((joint(inside='<limit lower="0" upper="1" velocity="inf"/>'),), "limit.velocity"),
    "words": ((joint(inside='<limit lower="0" upper="${pi}" velocity="1"/>'),), "'${pi}'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_joint_without_sound_limits_is_refused_by_name(tmp_path, case):
    joints, words = BROKEN[case]
    with pytest.raises(ContractError) as caught:
        read_urdf_limits(write(tmp_path, *joints), ["a"])
    assert "robot.urdf: joint a" in str(caught.value)
    assert words in str(caught.value)


HOSTILE = {
    "an entity": '<!DOCTYPE r [<!ENTITY a "aaaa">]><robot>&a;</robot>',
    "a DOCTYPE after a comment": '<!-- \n --><!DOCTYPE r SYSTEM "file:///etc/passwd"><robot/>',
    "an undefined entity": "<robot>&a;</robot>",
    "no XML": "robot",
    "nothing": "",
    "a cut file": '<robot><joint name="a"',
    "an unknown encoding": '<?xml version="1.0" encoding="klingon"?><robot/>',
    "another root": "<sdf/>",
    "endless nesting": "<robot>" + "<a>" * 1_000_000,
    "a null byte": "<robot>\0</robot>",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_urdf_is_refused(tmp_path, case):
    file = tmp_path / "robot.urdf"
    file.write_text(HOSTILE[case])
    with pytest.raises(ContractError, match=r"robot\.urdf") as caught:
        read_urdf_limits(file, ["a"])
    assert "\n" not in str(caught.value)


def test_a_huge_urdf_is_refused_unread(tmp_path):
    file = tmp_path / "robot.urdf"
    file.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ContractError, match=f"more than {MAX_BYTES} bytes"):
        read_urdf_limits(file, ["a"])


@pytest.fixture
def with_urdf(document, tmp_path):
    """The small contract with all position limits left to a URDF."""
    write(tmp_path, joint("a"), joint("b", "prismatic"))
    document["actions"]["arm"]["limits"] = {"urdf": "robot.urdf", "default": {"acceleration": 5}}
    return document


def test_the_urdf_gives_position_and_velocity(with_urdf, load):
    assert load(with_urdf).limits == (JointLimits(-2, 3, 4, 5),) * 2


def test_a_tighter_contract_wins(with_urdf, load):
    own = {"position": [-2, 1], "velocity": 4}
    with_urdf["actions"]["arm"]["limits"] |= {
        "default": {"velocity": 1, "acceleration": 5},
        "joints": {"a": own},
    }
    assert load(with_urdf).limits == (JointLimits(-2, 1, 4, 5), JointLimits(-2, 3, 1, 5))


@pytest.mark.parametrize(
    ("change", "key", "both"),
    [
        ({"joints": {"a": {"position": [-2.1, 3]}}}, "joints.a.position", ("-2.1", "[-2.0, 3.0]")),
        ({"joints": {"a": {"position": [0, 3.1]}}}, "joints.a.position", ("3.1", "[-2.0, 3.0]")),
        ({"joints": {"b": {"velocity": 4.1}}}, "joints.b.velocity", ("4.1 for b", "URDF's 4.0")),
        (
            {"default": {"velocity": 4.1, "acceleration": 5}},
            "default.velocity",
            ("4.1 for a", "URDF's 4.0"),
        ),
    ],
)
def test_a_wider_contract_is_refused_and_both_are_shown(with_urdf, load, change, key, both):
    with_urdf["actions"]["arm"]["limits"] |= change
    with pytest.raises(ContractError) as caught:
        load(with_urdf)
    assert caught.value.key == f"actions.arm.limits.{key}"
    assert all(words in str(caught.value) for words in both)


def test_acceleration_comes_from_the_contract_alone(with_urdf, load):
    del with_urdf["actions"]["arm"]["limits"]["default"]
    with pytest.raises(ContractError, match=r"limits\.joints\.a\.acceleration"):
        load(with_urdf)


def test_a_continuous_joint_takes_its_range_from_the_contract(with_urdf, load, tmp_path):
    write(tmp_path, joint("a", "continuous"), joint("b"))
    with pytest.raises(ContractError, match=r"joints\.a\.position.*no URDF limits this joint"):
        load(with_urdf)
    with_urdf["actions"]["arm"]["limits"]["joints"] = {"a": {"position": [-9, 9]}}
    assert load(with_urdf).limits[0] == JointLimits(-9, 9, 4, 5)


@pytest.mark.parametrize("path", ["../robot.urdf", "/etc/passwd", "sub/../../robot.urdf", "link"])
def test_a_urdf_outside_the_folder_is_refused(document, load, tmp_path, path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    document["actions"]["arm"]["limits"]["urdf"] = path
    with pytest.raises(ContractError, match="outside the contract's folder"):
        load(document)


def test_a_missing_urdf_is_named(document, load):
    document["actions"]["arm"]["limits"]["urdf"] = "none.urdf"
    with pytest.raises(ContractError, match=r"limits\.urdf: found 'none\.urdf', no such file"):
        load(document)


def test_a_looping_link_is_refused(document, load, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    document["actions"]["arm"]["limits"]["urdf"] = "loop"
    with pytest.raises(ContractError, match=r"robot\.yaml"):
        load(document)


def test_a_contract_installed_as_a_link_still_finds_its_urdf(with_urdf, load, tmp_path):
    expected = load(copy.deepcopy(with_urdf))
    installed = tmp_path / "share"
    installed.mkdir()
    for name in ("robot.yaml", "robot.urdf"):
        (installed / name).symlink_to(tmp_path / name)
    assert load_contract(installed / "robot.yaml") == expected
