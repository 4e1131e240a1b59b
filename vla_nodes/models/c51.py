# SPDX-License-Identifier: Apache-2.0
"""Values as distributions over 201 atoms from -1 to 0: targets, loss and what to read off.

Distributions over fixed atoms: C51, https://arxiv.org/abs/1707.06887; cross entropy with two-hot
targets: https://arxiv.org/abs/2403.03950.
"""

import torch
from torch import Tensor
from torch.nn import functional

ATOMS = 201
LOWEST, HIGHEST = -1.0, 0.0
INTERVALS = ATOMS - 1

_HAIR = 1e-5  # of an interval; what was meant to be in [-1, 0] lies up to 6e-6 beside in float32


def support(device: torch.device | str | None = None) -> Tensor:
    """The atoms' values, (201,) float32, rising."""
    places = torch.arange(ATOMS, dtype=torch.float64, device=device)
    return (LOWEST + places / INTERVALS).float()


def two_hot(values: Tensor) -> Tensor:
    """Distributions of given means, on the two atoms beside each.

    Args:
        values: (...), in [-1, 0].

    Returns:
        (..., 201) float32.

    Raises:
        ValueError: A value is not finite, or out of bounds; none is clipped.
    """
    places = _places(values)
    lower = places.floor().clamp(max=INTERVALS - 1)
    upper_share = (places - lower).clamp(0.0, 1.0).float()
    target = torch.zeros(*values.shape, ATOMS, device=values.device)
    at = lower.long().unsqueeze(-1)
    target.scatter_(-1, at, 1.0 - upper_share.unsqueeze(-1))
    return target.scatter_(-1, at + 1, upper_share.unsqueeze(-1))


def nearest_atom(values: Tensor) -> Tensor:
    """The atom nearest to each value; halfway between two, the upper one.

    Args:
        values: (...), in [-1, 0].

    Returns:
        (...) int64.

    Raises:
        ValueError: A value is not finite, or out of bounds.
    """
    return (_places(values) + (0.5 + _HAIR)).floor().long()


def value_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of predicted distributions with targets.

    Args:
        logits: (B, 201).
        targets: Values (B,), which become two-hot; or distributions (B, 201).

    Returns:
        (B,) float32, nat.

    Raises:
        ValueError: As of ``two_hot``; shapes do not fit; or a target is no distribution.
    """
    if logits.shape[-1] != ATOMS or targets.shape not in (logits.shape, logits.shape[:-1]):
        raise ValueError(
            f"logits are {tuple(logits.shape)} and targets {tuple(targets.shape)}, expected "
            f"(B, {ATOMS}), and (B,) or (B, {ATOMS})"
        )
    if targets.ndim < logits.ndim:
        targets = two_hot(targets)
    # Written so that NaN is refused as well.
    elif not ((targets >= 0.0).all() and ((targets.sum(-1) - 1.0).abs() < 0.01).all()):
        raise ValueError("a target is no distribution: expected shares from 0 up, that sum to 1")
    return -(targets * functional.log_softmax(logits.float(), dim=-1)).sum(-1)


def expected_value(logits: Tensor) -> Tensor:
    """The mean of distributions: (..., 201) logits to (...) float32 in [-1, 0]."""
    # No matrix product: autocast would take it to bfloat16.
    return (logits.float().softmax(-1) * support(logits.device)).sum(-1)


def most_likely(logits: Tensor) -> Tensor:
    """The value of the likeliest atom: (..., 201), logits or probabilities, to (...) float32."""
    return support(logits.device)[logits.argmax(-1)]


def quantiles(probabilities: Tensor, levels: Tensor) -> Tensor:
    """The lowest atoms up to which distributions hold at least a share of their mass.

    Args:
        probabilities: (..., 201).
        levels: (Q,), between 0 and 1.

    Returns:
        (..., Q) float32.
    """
    held = probabilities.double().cumsum(-1)
    held = held / held[..., -1:]
    # Of what is float32, a share that was meant to be held may be missed by its rounding.
    below = held.unsqueeze(-2) < levels.double().unsqueeze(-1) - 1e-6
    return support(probabilities.device)[below.sum(-1).clamp(max=INTERVALS)]


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of distributions: (..., 201) to (...) float32, nat."""
    return torch.special.entr(probabilities.float()).sum(-1)


def _places(values: Tensor) -> Tensor:
    """Places between the atoms, (...) float64 from 0 to 200.

    Rounding of float32 may leave a place a hair beside an atom that is meant; it is moved there.
    """
    values = values.double()
    outside = ~((values >= LOWEST) & (values <= HIGHEST))
    if outside.any():
        raise ValueError(
            f"target {values[outside][0].item():g} is no value, expected numbers from "
            f"{LOWEST:g} to {HIGHEST:g}"
        )
    places = (values - LOWEST) * INTERVALS
    whole = places.round()
    return torch.where((places - whole).abs() < _HAIR, whole, places)
