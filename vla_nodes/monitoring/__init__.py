# SPDX-License-Identifier: Apache-2.0
"""What a stream of value estimates says about a task. Needs numpy, and no ROS."""
