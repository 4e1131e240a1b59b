# SPDX-License-Identifier: Apache-2.0
"""The columns of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from vla_nodes.contract.schema import Contract

STATE = "observation.state"
ACTION = "action"
BAG_TIME = "bag_time_ns"
SUBTASK = "subtask"
SUBTASK_INDEX = "subtask_index"
OUTCOME = "outcome"


class Outcome(IntEnum):
    """How an episode ended; the value of the column ``outcome``."""

    UNKNOWN = -1
    FAILURE = 0
    SUCCESS = 1


def image_key(camera: str) -> str:
    """Name of a camera's column."""
    return f"observation.images.{camera}"


@dataclass(frozen=True)
class DatasetSchema:
    """What every episode of a dataset has in common.

    Attributes:
        robot: Of the contract.
        fps: Frames per second.
        state_names: Elements of ``observation.state``.
        action_names: Elements of ``action``.
        cameras: (height, width) by camera, in the contract's order.
    """

    robot: str
    fps: int
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: Mapping[str, tuple[int, int]]

    @classmethod
    def of(
        cls, contract: Contract, fps: int, resize: tuple[int, int] | None = None
    ) -> "DatasetSchema":
        """The schema that a contract gives; ``resize`` is (width, height)."""
        size = (resize[1], resize[0]) if resize else None
        return cls(
            robot=contract.robot,
            fps=fps,
            state_names=contract.state_names,
            action_names=contract.action_names,
            cameras={camera.name: size or camera.shape for camera in contract.cameras},
        )

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Features as ``LeRobotDataset.create`` takes them."""
        vectors = {STATE: self.state_names, ACTION: self.action_names}
        scalars = {BAG_TIME: "int64", SUBTASK_INDEX: "int64", OUTCOME: "int64", SUBTASK: "string"}
        return {
            **{
                key: {"dtype": "float32", "shape": (len(names),), "names": list(names)}
                for key, names in vectors.items()
            },
            **{
                image_key(camera): {
                    "dtype": "video",
                    "shape": (height, width, 3),
                    "names": ["height", "width", "channels"],
                }
                for camera, (height, width) in self.cameras.items()
            },
            **{
                key: {"dtype": dtype, "shape": (1,), "names": None}
                for key, dtype in scalars.items()
            },
        }
