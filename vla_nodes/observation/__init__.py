# SPDX-License-Identifier: Apache-2.0
"""Messages in, observations out. Needs numpy and OpenCV, and the contract, but no ROS.

Nothing is imported here: the commander reads joint states with ``joints`` and must not load OpenCV.
"""
