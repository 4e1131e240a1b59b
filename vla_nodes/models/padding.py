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


def at_last_token(hidden: Tensor, there: Tensor, start: int) -> Tensor:
    """The hidden state of the last token that is there, at each place from ``start`` on.

    From it the token after that place is predicted, however many are padding in between.

    Args:
        hidden: (B, N, W).
        there: (B, N) bool.
        start: First place.

    Returns:
        (B, N - start, W).
    """
    places = torch.arange(hidden.shape[1], device=hidden.device)
    last = torch.where(there, places, 0).cummax(dim=1).values[:, start:]
    return hidden.gather(1, last[..., None].expand(-1, -1, hidden.shape[2]))
