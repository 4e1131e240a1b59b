# SPDX-License-Identifier: Apache-2.0
"""What is configured wrongly is refused in plain words, and can be mended."""

import dataclasses
import re
from collections.abc import Callable

import pytest
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from vla_nodes.bringup.graph import BringupOptions


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rat": 50.0}, "unknown parameter 'rat'; did you mean 'rate'?"),
        ({"rate": -1.0}, "parameter 'rate' is -1.0; it must be a number"),
        ({"rate": float("nan")}, "parameter 'rate' is nan"),
        ({"rate": "fast"}, "parameter 'rate' is 'fast'"),
        ({"contract": "/nowhere.yaml"}, "/nowhere.yaml"),
    ],
)
def test_a_bad_parameter_fails_configure_with_key_and_value(
    launch: Callable, parameters: dict, words: str
) -> None:
    with launch(BringupOptions(autostart=False), {"commander": parameters}) as graph:
        assert not graph.client.transition("commander", Transition.TRANSITION_CONFIGURE)
        graph.client.wait_until(
            lambda: words in graph.client.message("commander"), 5.0, f"the fault says {words}"
        )


def test_a_parameter_can_be_mended_while_unconfigured_and_not_while_active(
    launch: Callable,
) -> None:
    def set_rate(graph: object, rate: float) -> tuple[bool, str]:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=rate)
        request = SetParameters.Request(parameters=[Parameter(name="rate", value=value)])
        response = graph.client.call(SetParameters, "commander/set_parameters", request)
        return response.results[0].successful, response.results[0].reason

    with launch(BringupOptions(autostart=False), {"commander": {"rate": -1.0}}) as graph:
        assert not graph.client.transition("commander", Transition.TRANSITION_CONFIGURE)
        assert set_rate(graph, 50.0) == (True, "")
        assert graph.client.transition("commander", Transition.TRANSITION_CONFIGURE)
        successful, reason = set_rate(graph, 60.0)
        assert not successful
        assert "unconfigured" in reason


def test_topics_that_nobody_publishes_hold_activation_back_and_are_named(
    launch: Callable, wrist_elsewhere: Callable
) -> None:
    with launch(*wrist_elsewhere(topic="/no/such/camera")) as graph:
        graph.client.wait_until(
            lambda: "/no/such/camera" in graph.client.message("supervisor"), 30.0, "it is named"
        )
        assert not graph.client.transition("policy", Transition.TRANSITION_ACTIVATE)
        result = graph.client.execute("clear the table")
        assert result.message.startswith("not ready: policy")
        assert "somebody to publish /no/such/camera" in result.message


def test_incompatible_quality_of_service_is_named(
    launch: Callable, wrist_elsewhere: Callable
) -> None:
    with launch(*wrist_elsewhere(topic="/picky", qos={"reliability": "reliable"})) as graph:
        profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        graph.client.node.create_publisher(Image, "/picky", profile)
        pattern = re.compile(r"/picky: a publisher is incompatible in RELIABILITY")
        graph.client.wait_until(
            lambda: pattern.search(graph.client.message("policy")), 30.0, "it is named"
        )


def test_a_camera_that_only_bags_are_read_from_is_refused_by_the_policy(
    launch: Callable, wrist_elsewhere: Callable
) -> None:
    video = {"type": "foxglove_msgs/msg/CompressedVideo", "encoding": "h264"}
    options, parameters = wrist_elsewhere(topic="/wrist/video", **video)
    with launch(dataclasses.replace(options, autostart=False), parameters) as graph:
        assert not graph.client.transition("policy", Transition.TRANSITION_CONFIGURE)
        words = "camera wrist is foxglove_msgs/msg/CompressedVideo, which only bags are read from"
        graph.client.wait_until(lambda: words in graph.client.message("policy"), 5.0, words)


def test_a_contract_of_another_robot_is_refused_by_the_simulated_arm(launch: Callable) -> None:
    options = BringupOptions(contract="ur5e", autostart=False)
    with launch(options) as graph:
        assert not graph.client.transition("sim", Transition.TRANSITION_CONFIGURE)
        graph.client.wait_until(
            lambda: "the simulated arm has pan, lift" in graph.client.message("sim"), 5.0, "named"
        )
        assert not graph.client.transition("policy", Transition.TRANSITION_CONFIGURE)
        graph.client.wait_until(
            lambda: "use a learned policy" in graph.client.message("policy"), 5.0, "named"
        )
