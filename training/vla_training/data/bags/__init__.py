# SPDX-License-Identifier: Apache-2.0
"""Reading bags of every kind, the damaged ones too."""
