# SPDX-License-Identifier: Apache-2.0
"""The simulated tabletop arm: MuJoCo scene, gymnasium environment, tasks and scripted expert."""
