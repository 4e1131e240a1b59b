# SPDX-License-Identifier: Apache-2.0
"""Recordings: ROS 2 bags of every storage, and ROS 1 bags, whole or cut short."""
