# SPDX-License-Identifier: Apache-2.0
"""Texts of different lengths in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Rows of tokens, filled up on the right.

    Args:
        rows: B rows.
        pad_id: Fills them.
        length: To be; None for that of the longest row.

    Returns:
        Tokens (B, L) int64 and (B, L) bool, True where a token is a row's own.
    """
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max()) if length is None else length
    tokens = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
    return tokens.long(), torch.arange(longest) < lengths[:, None]
