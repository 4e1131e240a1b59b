# SPDX-License-Identifier: Apache-2.0
"""The value monitor's parameters, and the value function that they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vla_nodes.contract import Contract
from vla_nodes.inference.value_runtime import ENGINES, ValueRuntime, load_value_runtime
from vla_nodes.models.entries import Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object
from vla_nodes.models.value_config import INTERFACE
from vla_nodes.monitoring.value_events import EventSettings
from vla_nodes.nodes.parameters import ParameterError, parameter

_EVENTS = EventSettings()
MAX_LEVELS, MAX_TASK_LENGTH = 16, 512  # as in ValueEstimate.msg


@dataclass(frozen=True)
class ValueMonitorParameters:
    """Parameters of the value monitor."""

    contract: str = parameter("", "Path of the robot's contract, YAML")
    checkpoint: str = parameter("", "Folder of the value function's weights")
    engine: Literal["torch", "onnxruntime"] = parameter(
        "torch",
        "What runs the value function; onnxruntime needs the checkpoint's exported graphs",
        choices=ENGINES,
    )
    device: str = parameter(
        "cpu", "Where to compute: cpu, cuda, cuda:N; with onnxruntime also tensorrt"
    )
    autostart: bool = parameter(
        False, "Become active without being told; for a monitor that no supervisor looks after"
    )
    task: str = parameter(
        "", "Task in plain words while no Task message gives one, such as for a played bag"
    )
    rate: float = parameter(
        5.0,
        "Greatest number of estimates per second, Hz; lower saves power, but a stall and a drop "
        "are seen later",
        minimum=0.1,
        maximum=100.0,
    )
    quantiles: tuple[float, ...] = parameter(
        (0.1, 0.5, 0.9), "Levels of the quantiles published, rising; the outermost are drawn"
    )
    window: float = parameter(
        _EVENTS.window,
        "Seconds over which trend and stall are measured; longer sees slower tasks gain, but "
        "tells a stall later",
        minimum=0.5,
        maximum=600.0,
    )
    stall_gain: float = parameter(
        _EVENTS.stall_gain,
        "Gain of the value over the window below which it stalls; a third of what it gains there "
        "when all goes well. Higher gives false alarms, lower sees fewer stalls",
        minimum=-1.0,
        maximum=1.0,
    )
    stall_recovery: float = parameter(
        _EVENTS.stall_recovery,
        "Gain over the window that ends a stall; near stall_gain, noise ends it",
        minimum=-1.0,
        maximum=1.0,
    )
    drop: float = parameter(
        _EVENTS.drop,
        "Fall of the value below its recent best that counts as a drop; below four times the "
        "estimates' noise it gives false alarms",
        minimum=0.01,
        maximum=1.0,
    )
    drop_window: float = parameter(
        _EVENTS.drop_window, "Seconds for which a best is recent", minimum=0.5, maximum=600.0
    )
    finished_value: float = parameter(
        _EVENTS.finished_value,
        "Value from which on the task is done; too low ends tasks early as successes",
        minimum=-0.99,
        maximum=-0.001,
    )
    finished_hold: float = parameter(
        _EVENTS.finished_hold, "Seconds that the value must have been there", minimum=0.0
    )
    subtask_value: float = parameter(
        _EVENTS.subtask_value,
        "Value of the subtask's own text from which on it is done, so that the planner looks again",
        minimum=-0.99,
        maximum=-0.001,
    )
    subtask_hold: float = parameter(
        _EVENTS.subtask_hold, "Seconds that it must have been there", minimum=0.0
    )
    display_rate: float = parameter(
        5.0,
        "Markers and overlay pictures per second, Hz, while somebody looks; 0: none",
        minimum=0.0,
        maximum=30.0,
    )
    display_camera: str = parameter(
        "", "Camera in the overlay; empty: the first that the value function looks at"
    )
    marker_frame: str = parameter("world", "Frame that the markers stand in, its z axis up")
    marker_origin: tuple[float, ...] = parameter(
        (0.0, -0.6, 0.0), "Foot of the value's bar in that frame: x, y and z, m"
    )
    marker_height: float = parameter(
        0.5, "Height of the bar at value 0, m", minimum=0.01, maximum=100.0
    )


def event_settings(parameters: ValueMonitorParameters) -> EventSettings:
    """When a value counts as what.

    Raises:
        ParameterError: The parameters contradict each other.
    """
    try:
        return EventSettings(**{n: getattr(parameters, n) for n in EventSettings.__annotations__})
    except ValueError as error:
        raise ParameterError(str(error)) from error


def check_contents(parameters: ValueMonitorParameters) -> None:
    """Checks what a range cannot say.

    Raises:
        ParameterError: The quantiles' levels, the task or the markers' origin are no good.
    """
    if len(parameters.task) > MAX_TASK_LENGTH:
        raise ParameterError(
            f"parameter 'task' has {len(parameters.task)} characters; it must have at most "
            f"{MAX_TASK_LENGTH}"
        )
    levels, origin = parameters.quantiles, parameters.marker_origin
    rising = all(a < b for a, b in zip((0.0, *levels), (*levels, 1.0), strict=True))
    if len(levels) > MAX_LEVELS or not rising:
        raise ParameterError(
            f"parameter 'quantiles' is {list(levels)}; it must be at most {MAX_LEVELS} rising "
            "numbers between 0 and 1"
        )
    if len(origin) != 3 or not all(abs(place) < 1e6 for place in origin):
        raise ParameterError(
            f"parameter 'marker_origin' is {list(origin)}; it must be three numbers"
        )


def load_runtime(parameters: ValueMonitorParameters, contract: Contract) -> ValueRuntime:
    """Load the value function.

    Raises:
        ParameterError: It is missing, damaged, of another kind, or does not fit this robot.
    """
    if not parameters.checkpoint:
        raise ParameterError("parameter 'checkpoint' is empty; name a value function's folder")
    folder = Path(parameters.checkpoint).expanduser()
    try:
        cameras = _cameras(folder, [camera.name for camera in contract.cameras])
        return load_value_runtime(folder, parameters.engine, parameters.device, cameras)
    except (ImportError, CheckpointError) as error:
        raise ParameterError(f"checkpoint: {error}") from error


def _cameras(folder: Path, there: Sequence[str]) -> Sequence[str]:
    """Cameras that a value function looks at, of those that are there."""
    file = folder / INTERFACE
    if not file.is_file():
        return there  # Loading will say what this folder is instead.
    known = Entries(file, read_object(file)).names("cameras") or ()
    if not set(known) & set(there):
        raise CheckpointError(
            f"{folder} looks at {', '.join(known)}; the contract has only the cameras "
            f"{', '.join(there) or 'none'}"
        )
    return [camera for camera in known if camera in there]
