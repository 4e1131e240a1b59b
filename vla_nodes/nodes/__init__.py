# SPDX-License-Identifier: Apache-2.0
"""The lifecycle nodes; the only room that imports rclpy."""
