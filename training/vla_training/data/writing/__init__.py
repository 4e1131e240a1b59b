# SPDX-License-Identifier: Apache-2.0
"""Frames to a LeRobot v3 dataset: encoded, kept as shards, written."""
