# SPDX-License-Identifier: Apache-2.0
"""ros2 launch vla_nodes bringup.launch.py: the whole graph; by default with the simulated arm."""

from launch import LaunchDescription

from vla_nodes.bringup.graph import BringupOptions, graph
from vla_nodes.bringup.ros_launch import describe

DESCRIPTIONS = {
    "contract": "contract file, or the name of one that ships with the package",
    "backend": "what computes the actions: expert (simulated arm only), pi05 or lerobot",
    "checkpoint": "folder of the policy's weights; empty for a backend without",
    "energy": "folder of the energy model that judges the policy's chunks; empty: no check",
    "use_sim": "start the simulated arm",
    "use_sim_time": "follow /clock; empty: as use_sim",
    "lockstep": "the simulation waits for the commander instead of keeping real time",
    "namespace": "namespace of all nodes",
    "params_file": "ROS parameter file that overrides the launch arguments",
    "device": "where the policy computes: cpu, cuda, cuda:N",
    "autostart": "bring the nodes up at once; otherwise activate the supervisor yourself",
    "rviz": "start rviz2",
    "record": "folder that gets a folder for every episode; empty: nothing is recorded",
    "value_checkpoint": "folder of a value function for the value monitor; empty: the simulation "
    "tells the true progress, and on a robot nobody does",
    "value_engine": "what runs the value function: torch or onnxruntime",
    "value_device": "where the value function computes: cpu, cuda, cuda:N",
}


def generate_launch_description() -> LaunchDescription:
    """One launch argument for each option of the graph."""
    return describe(BringupOptions, graph, DESCRIPTIONS, "bringup.rviz")
