# SPDX-License-Identifier: Apache-2.0
"""Folders of arrays and pictures to LeRobot v3 datasets."""
