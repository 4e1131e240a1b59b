# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vla_nodes.contract import Contract, load_contract


@pytest.fixture
def document() -> dict:
    """Two joints, one camera; small enough to break one thing at a time."""
    return {
        "robot": "tiny",
        "fps": 20,
        "timeline": "header",
        "reference": "front",
        "max_skew": 0.05,
        "cameras": {
            "front": {
                "topic": "/front/image",
                "type": "sensor_msgs/msg/Image",
                "encoding": "rgb8",
                "width": 64,
                "height": 48,
                "max_age": 0.1,
            }
        },
        "states": {"arm": {"topic": "/joint_states", "joints": ["a", "b"], "max_age": 0.1}},
        "actions": {
            "arm": {
                "topic": "/arm/joint_trajectory",
                "type": "trajectory_msgs/msg/JointTrajectory",
                "joints": ["a", "b"],
                "limits": {
                    "default": {"velocity": 2, "acceleration": 10.0},
                    "joints": {"a": {"position": [-1, 1]}, "b": {"position": [0.0, 0.04]}},
                },
            }
        },
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[[dict], Contract]:
    def write_and_load(document: dict) -> Contract:
        file = tmp_path / "robot.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return load_contract(file)

    return write_and_load
