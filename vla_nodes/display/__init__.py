# SPDX-License-Identifier: Apache-2.0
"""Pictures of a live run, for people: terminal view, video, plots. No ROS."""
