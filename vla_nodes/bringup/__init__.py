# SPDX-License-Identifier: Apache-2.0
"""The one list of the graph's processes, and a launcher for machines without ros2 launch."""
