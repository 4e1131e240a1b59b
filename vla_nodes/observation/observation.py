# SPDX-License-Identifier: Apache-2.0
"""What assembling gives: an observation, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vla_nodes.observation.codecs import Picture
from vla_nodes.observation.joints import Vector

Reason = Literal["missing", "stale", "skewed", "pending", "corrupt"]


@dataclass(frozen=True)
class Observation:
    """Every input at one stamp.

    Attributes:
        stamp: ns.
        images: By camera, (H, W, 3) uint8 RGB or (H, W) uint16 depth; not to be written to.
        state: (S,) float64, ordered like ``Contract.state_names``.
        extras: Vectors of the extra states by name, interpolated like the state.
        ages: Seconds by stream, from its sample at or before ``stamp`` until now
            (until ``stamp`` where no now was given).
        skews: Seconds by stream, from ``stamp`` to the sample nearest to it among those used;
            negative for an earlier sample.
    """

    stamp: int
    images: Mapping[str, Picture]
    state: Vector
    extras: Mapping[str, Vector]
    ages: Mapping[str, float]
    skews: Mapping[str, float]


@dataclass(frozen=True)
class NotReady:
    """Why there is no observation.

    Attributes:
        stream: Name of the camera or state source to blame.
        reason: ``missing``: no sample to use; ``stale``: the sample is older than its maximum
            age; ``skewed``: it lies further than the maximum skew from the stamp; ``pending``:
            a state sample at or after the stamp has yet to come; ``corrupt``: the frame cannot
            be decoded, or contradicts the contract.
        detail: In words, with figures.
    """

    stream: str
    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.stream} is {self.reason}: {self.detail}"
