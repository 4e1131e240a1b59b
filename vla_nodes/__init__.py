# SPDX-License-Identifier: Apache-2.0
"""Robot-side deployment of vision-language-action policies on ROS 2.

Rooms and who may import whom (tests/test_architecture.py holds this):
``contract`` <- ``observation`` <- ``nodes``; ``contract`` <- ``control`` <- ``nodes``;
``sim`` and ``display`` know no ROS; only ``nodes`` imports rclpy.
"""
