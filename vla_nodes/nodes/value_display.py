# SPDX-License-Identifier: Apache-2.0
"""The value estimate on ROS topics that standard tools show: markers and pictures."""

import math
import threading
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Vector3
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray
from vla_interfaces.msg import ValueEstimate

from vla_nodes.display.style import value_state
from vla_nodes.display.value_history import ValueHistory
from vla_nodes.display.value_markers import Placement, Shape, value_shapes
from vla_nodes.display.value_overlay import ValuePicture, compose_value
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.lifecycle import ManagedNode
from vla_nodes.nodes.stamps import duration_message, nanoseconds, time_message
from vla_nodes.nodes.value_monitor_parameters import ValueMonitorParameters
from vla_nodes.observation.codecs import fill_image

_KINDS = {"text": Marker.TEXT_VIEW_FACING, "bar": Marker.CUBE, "line": Marker.LINE_STRIP}
MARKER_LIFETIME = 3_000_000_000  # ns after which a monitor's last markers vanish


class ValueDisplay:
    """Publishes markers and overlay, each only while somebody looks.

    Args:
        node: That the publishers belong to.
        parameters: Of the node.
    """

    def __init__(self, node: ManagedNode, parameters: ValueMonitorParameters) -> None:
        self._markers = node.publish_on(MarkerArray, topics.VALUE_MARKERS, qos.NEWEST)
        self._overlay = node.publish_on(Image, topics.VALUE_OVERLAY, qos.NEWEST)
        self._frame = parameters.marker_frame
        x, y, z = parameters.marker_origin
        self._placement = Placement((x, y, z), parameters.marker_height)
        self._history = ValueHistory()
        self._newest = ValueEstimate()
        self._lock = threading.Lock()

    def add(self, estimate: ValueEstimate) -> None:
        """Take an estimate in, from any thread."""
        low, high = math.nan, math.nan
        if len(estimate.quantiles) > 1:
            low, high = estimate.quantiles[0], estimate.quantiles[-1]
        with self._lock:
            if (estimate.goal, estimate.task) != (self._newest.goal, self._newest.task):
                self._history.clear()
            seconds = nanoseconds(estimate.header.stamp) * 1e-9
            self._history.add(seconds, estimate.value, low, high)
            self._newest = estimate

    def show(self, camera: np.ndarray | None, energy: float, now: int, waiting: str) -> None:
        """Publish what somebody looks at.

        Args:
            camera: Newest picture (H, W, 3), or None.
            energy: Of the newest chunk; NaN when unknown.
            now: ROS time, ns.
            waiting: Why there are no estimates at present; empty while there are.
        """
        with self._lock:
            newest, history = self._newest, self._history.columns()
        state = "waiting"
        if not waiting:
            state = value_state(
                finished=newest.finished, dropped=newest.dropped, stalled=newest.stalled
            )
        value, trend = (newest.value, newest.trend) if len(history[0]) else (math.nan, math.nan)
        if self._markers.get_subscription_count():
            shapes = value_shapes(
                state=state,
                value=value,
                trend=trend,
                subtask=newest.subtask,
                times=history[0],
                values=history[1],
                placement=self._placement,
            )
            self._markers.publish(
                MarkerArray(markers=[marker_message(shape, self._frame) for shape in shapes])
            )
        if self._overlay.get_subscription_count():
            times, values, low, high = history
            picture = ValuePicture(
                camera=camera,
                task=waiting or newest.task,
                subtask=newest.subtask,
                state=state,
                value=value,
                times=times,
                values=values,
                low=low,
                high=high,
                probabilities=np.array(newest.probabilities) if newest.probabilities else None,
                trend=trend,
                energy=energy,
                stalled=newest.stalled,
                age=now * 1e-9 - times[-1] if len(times) else math.nan,
            )
            message = Image()
            message.header.stamp = time_message(now)
            fill_image(message, compose_value(picture))
            self._overlay.publish(message)


def marker_message(shape: Shape, frame: str) -> Any:
    """A shape as a marker; unstamped, so that a viewer takes the newest transform."""
    marker = Marker(
        ns=shape.namespace,
        type=_KINDS[shape.kind],
        action=Marker.ADD if shape.shown else Marker.DELETE,
        scale=Vector3(x=shape.scale[0], y=shape.scale[1], z=shape.scale[2]),
        text=shape.text,
        lifetime=duration_message(MARKER_LIFETIME),
    )
    marker.header.frame_id = frame
    marker.pose.position = _point(shape.position)
    marker.pose.orientation.w = 1.0
    red, green, blue, opacity = shape.colour
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=opacity)
    marker.points = [_point(point) for point in shape.points]
    return marker


def _point(place: tuple[float, float, float]) -> Point:
    return Point(x=place[0], y=place[1], z=place[2])
