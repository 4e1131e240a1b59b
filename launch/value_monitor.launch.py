# SPDX-License-Identifier: Apache-2.0
"""ros2 launch vla_nodes value_monitor.launch.py: the value monitor alone, also on a played bag."""

from launch import LaunchDescription

from vla_nodes.bringup.graph import MonitorOptions, monitor_graph
from vla_nodes.bringup.ros_launch import describe

DESCRIPTIONS = {
    "contract": "contract file, or the name of one that ships with the package",
    "checkpoint": "folder of the value function",
    "task": "task in plain words while no Task message gives one",
    "engine": "what runs the value function: torch or onnxruntime",
    "device": "where it computes: cpu, cuda, cuda:N",
    "use_sim_time": "follow /clock, as a played bag needs",
    "namespace": "namespace of the node",
    "params_file": "ROS parameter file that overrides the launch arguments",
    "rviz": "start rviz2",
}


def generate_launch_description() -> LaunchDescription:
    """One launch argument for each option of the monitor."""
    return describe(MonitorOptions, monitor_graph, DESCRIPTIONS, "value_monitor.rviz")
