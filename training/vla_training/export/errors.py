# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""


class ExportError(ValueError):
    """A model that cannot be exported as asked; says why and what would do."""
