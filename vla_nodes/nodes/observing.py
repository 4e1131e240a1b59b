# SPDX-License-Identifier: Apache-2.0
"""What nodes that observe the contract's streams share."""

from collections.abc import Mapping

from sensor_msgs.msg import CompressedImage, Image

from vla_nodes.contract import Camera
from vla_nodes.nodes.parameters import ParameterError
from vla_nodes.observation.assembler import Observation
from vla_nodes.observation.health import StreamHealth

_KINDS = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}


def image_message(camera: Camera) -> type:
    """Class of a camera's messages.

    Raises:
        ParameterError: Of a type that only bags are read from.
    """
    if camera.type not in _KINDS:
        raise ParameterError(
            f"contract: camera {camera.name} is {camera.type}, which only bags are read from; "
            f"write {' or '.join(_KINDS)}"
        )
    return _KINDS[camera.type]


def stream_figures(
    streams: Mapping[str, StreamHealth], observed: Observation | None
) -> dict[str, object]:
    """Figures of each stream for diagnostics: of its messages, and in the latest observation."""
    values: dict[str, object] = {}
    if observed:
        for name, age in observed.ages.items():
            values[f"{name}_age_ms"] = age * 1e3
            values[f"{name}_skew_ms"] = observed.skews[name] * 1e3
    for name, stream in streams.items():
        values[f"{name}_hz"] = stream.rate
        values[f"{name}_faults"] = sum(stream.faults.values())
        if stream.last_fault:
            values[f"{name}_last_fault"] = stream.last_fault
    return values


def frozen_streams(streams: Mapping[str, StreamHealth]) -> list[str]:
    """Warnings of cameras that show one picture."""
    frozen = [name for name, stream in streams.items() if stream.frozen]
    return [f"{name} shows the same picture again and again" for name in frozen]
