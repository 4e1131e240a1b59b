# SPDX-License-Identifier: Apache-2.0
"""Training jobs, one file each, and the loop that runs all of them."""
