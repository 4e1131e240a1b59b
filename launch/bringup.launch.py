# SPDX-License-Identifier: Apache-2.0
"""ros2 launch vla_nodes bringup.launch.py: the whole graph; by default with the simulated arm."""

from dataclasses import fields

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
    graph,
    node_environment,
    share_folder,
)

DESCRIPTIONS = {
    "contract": "contract file, or the name of one that ships with the package",
    "backend": "what computes the actions: expert (simulated arm only), pi05 or lerobot",
    "checkpoint": "folder of the policy's weights; empty for a backend without",
    "use_sim": "start the simulated arm",
    "use_sim_time": "follow /clock; empty: as use_sim",
    "lockstep": "the simulation waits for the commander instead of keeping real time",
    "namespace": "namespace of all nodes",
    "params_file": "ROS parameter file that overrides the launch arguments",
    "device": "where the policy computes: cpu, cuda, cuda:N",
    "autostart": "bring the nodes up at once; otherwise activate the supervisor yourself",
    "rviz": "start rviz2",
    "record": "folder that gets a folder for every episode; empty: nothing is recorded",
}


def start(context: LaunchContext) -> list:
    """Turn the launch arguments into processes."""
    options = BringupOptions(
        **{
            item.name: parse(item.name, LaunchConfiguration(item.name).perform(context))
            for item in fields(BringupOptions)
        }
    )
    nodes = [
        Node(
            package=PACKAGE,
            executable=node.name,
            namespace=options.namespace,
            parameters=[
                dict(node.parameters),
                *([options.params_file] if options.params_file else []),
            ],
            output="screen",
            respawn=True,
            respawn_delay=RESPAWN_DELAY,
            respawn_max_retries=RESPAWN_TRIES,
            additional_env=node_environment(),
        )
        for node in graph(options)
    ]
    tools: list = []
    if options.rviz:
        tools.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(share_folder() / "config" / "bringup.rviz")],
            )
        )
    # Tools first: where one is missing, launch gives up, and must not leave nodes behind.
    return [*tools, *nodes]


def parse(name: str, text: str) -> object:
    """The value of a launch argument, which always arrives as text."""
    default = getattr(BringupOptions(), name)
    if name == "use_sim_time" and not text:
        return None
    if not isinstance(default, bool) and name != "use_sim_time":
        return text
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise BringupError(f"{name}:={text}: it must be true or false")


def generate_launch_description() -> LaunchDescription:
    """One launch argument for each option of the graph."""
    arguments = []
    for item in fields(BringupOptions):
        default = getattr(BringupOptions(), item.name)
        arguments.append(
            DeclareLaunchArgument(
                item.name,
                default_value=""
                if default is None
                else str(default).lower()
                if isinstance(default, bool)
                else default,
                description=DESCRIPTIONS[item.name],
            )
        )
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
