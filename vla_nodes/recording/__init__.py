# SPDX-License-Identifier: Apache-2.0
"""Episodes on disk: serialized messages in, rosbag2 folders of MCAP files out; no ROS."""
