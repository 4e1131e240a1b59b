# SPDX-License-Identifier: Apache-2.0
"""Messages of a bag to frames on a grid of exact times."""
