# SPDX-License-Identifier: Apache-2.0
"""Recordings to LeRobot v3 datasets: frames on a grid, encoded, written, resumed."""
