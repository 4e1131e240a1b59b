# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the scripted expert on the simulated arm, straight to a LeRobot v3 dataset."""
