# SPDX-License-Identifier: Apache-2.0
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vla_nodes.contract import JointLimits, load_contract

FOLDER = Path(__file__).parents[2] / "config/contracts"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_example_loads_under_its_own_name(file):
    assert load_contract(file).robot == file.stem


def test_the_examples_cover_the_usual_robots():
    assert {file.stem for file in FILES} >= {"aloha", "sim_arm", "so101", "ur5e"}


def test_so101_has_six_joints_two_cameras_and_a_leader():
    contract = load_contract(FOLDER / "so101.yaml")
    assert len(contract.action_names) == len(contract.state_names) == 6
    assert [camera.shape for camera in contract.cameras] == [(480, 640)] * 2
    assert contract.actions[0].recorded.joints == contract.actions[0].joints


def test_aloha_has_fourteen_actions_of_two_arms():
    contract = load_contract(FOLDER / "aloha.yaml")
    assert len(contract.action_names) == 14
    assert contract.measured_index == tuple(range(14))
    assert [camera.name for camera in contract.cameras] == [
        *("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    ]
    assert [gripper is not None for gripper in contract.grippers] == ([False] * 6 + [True]) * 2
    assert len({source.recorded.topic for source in contract.actions}) == 2


def test_ur5e_stays_within_its_urdf():
    contract = load_contract(FOLDER / "ur5e.yaml")
    assert contract.cameras[0].shape == (720, 720)
    assert len(contract.state_names) == 12
    for joint, limit in zip(contract.actions[0].joints, contract.limits, strict=True):
        path = f"joint[@name='{joint}']/limit"
        outer = ElementTree.parse(FOLDER / "ur5e.urdf").find(path).attrib
        assert float(outer["lower"]) <= limit.lower < limit.upper <= float(outer["upper"])
        assert 0 < limit.velocity <= float(outer["velocity"])
    assert contract.limits[2] == JointLimits(-math.pi, math.pi, 1.0, 5.0)
