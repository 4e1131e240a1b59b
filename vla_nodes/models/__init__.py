# SPDX-License-Identifier: Apache-2.0
"""The models that run on the robot, and what turns observations into their inputs; torch."""
