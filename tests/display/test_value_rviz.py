# SPDX-License-Identifier: Apache-2.0
"""The stored views of rviz show the topics that the graph publishes."""

from pathlib import Path

import pytest
import yaml

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract
from vla_nodes.nodes import topics

CONFIG = Path(__file__).resolve().parents[2] / "config"
VALUE_TOPICS = {
    ("rviz_default_plugins/MarkerArray", topics.VALUE_MARKERS),
    ("rviz_default_plugins/Image", topics.VALUE_OVERLAY),
}


def view(name: str) -> dict:
    return yaml.safe_load((CONFIG / name).read_text())["Visualization Manager"]


def shown_by(name: str) -> dict[tuple[str, str], dict]:
    """The topic settings of every display that is on, by its class and topic."""
    found = {}
    for display in view(name)["Displays"]:
        topic = display.get("Topic") or display.get("Description Topic")
        if topic and display["Enabled"]:
            found[display["Class"], topic["Value"]] = topic
    return found


@pytest.mark.parametrize("name", ["value_monitor.rviz", "bringup.rviz"])
def test_a_view_shows_the_value_and_a_camera_of_the_contract(name: str) -> None:
    cameras = {camera.topic for camera in load_contract(find_contract("sim_arm")).cameras}
    shown = shown_by(name)
    assert set(shown) >= VALUE_TOPICS
    assert cameras & {topic for kind, topic in shown if kind == "rviz_default_plugins/Image"}


@pytest.mark.parametrize("name", ["value_monitor.rviz", "bringup.rviz"])
def test_pictures_match_any_sender_and_no_marker_is_lost(name: str) -> None:
    for (kind, _), topic in shown_by(name).items():
        best_effort = kind == "rviz_default_plugins/Image"
        assert topic["Reliability Policy"] == ("Best Effort" if best_effort else "Reliable")


def test_the_value_monitor_s_view_shows_the_robot() -> None:
    shown = shown_by("value_monitor.rviz")
    robot = shown["rviz_default_plugins/RobotModel", "/robot_description"]
    assert robot["Durability Policy"] == "Transient Local"


def test_both_views_have_one_fixed_frame() -> None:
    frames = {
        view(name)["Global Options"]["Fixed Frame"]
        for name in ("value_monitor.rviz", "bringup.rviz")
    }
    assert frames == {"world"}
