# SPDX-License-Identifier: Apache-2.0
"""The offline package: datasets from rosbags, labels, training and evaluation.

A distribution of its own, because what it needs has no business on a robot.
"""
