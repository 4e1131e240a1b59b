# SPDX-License-Identifier: Apache-2.0
"""What the launch files share; needs a ROS 2 installation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vla_nodes.bringup.graph import (
    PACKAGE,
    RESPAWN_DELAY,
    RESPAWN_TRIES,
    BringupError,
    BringupOptions,
    MonitorOptions,
    NodeSpec,
    node_environment,
    share_folder,
)


def describe[O: BringupOptions | MonitorOptions](
    kind: type[O],
    make_nodes: Callable[[O], Sequence[NodeSpec]],
    descriptions: Mapping[str, str],
    rviz: str,
) -> LaunchDescription:
    """A launch description with one argument for each option.

    Args:
        kind: Dataclass of the options.
        make_nodes: The nodes for options.
        descriptions: Of the options, by name.
        rviz: Name of the rviz configuration.
    """
    defaults = kind()

    def start(context: LaunchContext) -> list:
        given = {
            item.name: LaunchConfiguration(item.name).perform(context) for item in fields(kind)
        }
        values: dict[str, Any] = {
            name: parse(name, text, getattr(defaults, name)) for name, text in given.items()
        }
        options = kind(**values)
        tools: list = []
        if options.rviz:
            configuration = str(share_folder() / "config" / rviz)
            tools.append(Node(package="rviz2", executable="rviz2", arguments=["-d", configuration]))
        nodes = make_nodes(options)
        # Tools first: where one is missing, launch gives up, and must not leave nodes behind.
        return [*tools, *(process(node, options) for node in nodes)]

    arguments = [
        DeclareLaunchArgument(
            item.name,
            default_value=written(getattr(defaults, item.name)),
            description=descriptions[item.name],
        )
        for item in fields(kind)
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def process(node: NodeSpec, options: BringupOptions | MonitorOptions) -> Node:
    """The process of a node, which is started again when it dies."""
    files = [options.params_file] if options.params_file else []
    return Node(
        package=PACKAGE,
        executable=node.name,
        namespace=options.namespace,
        parameters=[dict(node.parameters), *files],
        output="screen",
        respawn=True,
        respawn_delay=RESPAWN_DELAY,
        respawn_max_retries=RESPAWN_TRIES,
        additional_env=node_environment(),
    )


def written(default: object) -> str:
    """A default as a launch argument is written; empty for one that depends on others."""
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def parse(name: str, text: str, default: object) -> object:
    """The value of a launch argument, which always arrives as text.

    Raises:
        BringupError: It should be true or false, and is not.
    """
    if default is None and not text:
        return None
    if default is not None and not isinstance(default, bool):
        return text
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise BringupError(f"{name}:={text}: it must be true or false")
