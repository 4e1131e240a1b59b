# SPDX-License-Identifier: Apache-2.0
"""Vectors of joints between a robot's units and those of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from vla_nodes.models.errors import CheckpointError, faults_of

Mode = Literal["quantile", "mean_std"]

STATISTICS: dict[str, tuple[str, str]] = {"quantile": ("q01", "q99"), "mean_std": ("mean", "std")}
"""By mode, the two statistics that it takes."""
LEAST_SPREAD = 1e-6
"""A joint that spans less than this never moved, in whatever unit."""


def numbered(count: int) -> tuple[str, ...]:
    """Names of joints of which a file has none."""
    return tuple(map(str, range(count)))


@dataclass(frozen=True)
class Scaling:
    """How each of D joints is scaled.

    Attributes:
        names: Of the joints; ``numbered`` where they are not known.
        mode: ``quantile`` takes the 1st and 99th percentile to -1 and 1, ``mean_std`` the mean
            to 0 and one standard deviation to 1.
        low: 1st percentile or mean, in the joint's unit.
        high: 99th percentile or standard deviation.
    """

    names: tuple[str, ...]
    mode: Mode
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks that every joint can be scaled.

        Raises:
            CheckpointError: One cannot.
        """
        if self.mode not in STATISTICS:
            raise CheckpointError(f"mode is {self.mode!r:.50}, expected {' or '.join(STATISTICS)}")
        first, second = STATISTICS[self.mode]
        for what, values in ((first, self.low), (second, self.high)):
            if len(values) != len(self.names):
                raise CheckpointError(
                    f"{what} has {len(values)} numbers, expected {len(self.names)}: "
                    f"{', '.join(self.names):.200}"
                )
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            spread = high - low if self.mode == "quantile" else high
            if not np.isfinite([low, high, spread]).all():
                raise CheckpointError(
                    f"joint {name!r:.100} has {first} {low} and {second} {high}, "
                    "expected finite numbers"
                )
            if spread < LEAST_SPREAD:
                raise CheckpointError(
                    f"joint {name!r:.100} has no spread ({first} {low:.6g}, {second} {high:.6g}): "
                    "it hardly moves in the data; record data in which it does, or leave it out "
                    "of the robot's contract"
                )

    @classmethod
    def of_statistics(
        cls, statistics: Mapping[str, Any], key: str, names: Sequence[str] | None, mode: Mode
    ) -> Self:
        """The scaling that statistics give.

        Args:
            statistics: By vector and name, each (D,).
            key: Of the vector, such as ``action``.
            names: Of the joints; None where they are not known.
            mode: Which statistics to take.

        Raises:
            CheckpointError: They are missing, no numbers, or not of these joints.
        """
        ours = statistics.get(key)
        if not isinstance(ours, Mapping):
            raise CheckpointError(f"there are no statistics of {key}")
        with faults_of(key):
            low, high = (_numbers(ours, name) for name in STATISTICS[mode])
            return cls(numbered(len(low)) if names is None else tuple(names), mode, low, high)

    def normalise(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """To the model's units.

        Args:
            values: (..., D), in the robot's.

        Returns:
            (..., D).

        Raises:
            ValueError: They are not D.
        """
        x, low, high = self._arrays(values)
        if self.mode == "mean_std":
            return (x - low) / high
        return 2.0 * (x - low) / (high - low) - 1.0

    def restore(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Back to the robot's units.

        Args:
            values: (..., D), in the model's.

        Returns:
            (..., D).

        Raises:
            ValueError: They are not D.
        """
        x, low, high = self._arrays(values)
        if self.mode == "mean_std":
            return x * high + low
        return (x + 1.0) * (high - low) / 2.0 + low

    def named(self, names: Sequence[str]) -> Self:
        """The same for the joints of a robot.

        Args:
            names: Of its joints, in its order.

        Raises:
            CheckpointError: These are other joints, or in another order.
        """
        unnamed = self.names == numbered(len(self.names))
        if len(names) != len(self.names) or not (unnamed or self.names == tuple(names)):
            raise CheckpointError(
                f"the statistics are of {len(self.names)} joints ({', '.join(self.names):.200}), "
                f"the robot has {len(names)} ({', '.join(names):.200})"
            )
        return replace(self, names=tuple(names))

    def _arrays(self, values: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], ...]:
        x = np.asarray(values, np.float64)
        if x.ndim < 1 or x.shape[-1] != len(self.names):
            raise ValueError(f"shape is {x.shape}, expected (..., {len(self.names)})")
        return x, np.array(self.low), np.array(self.high)


def _numbers(statistics: Mapping[str, Any], name: str) -> tuple[float, ...]:
    if name not in statistics:
        there = ", ".join(map(str, statistics)) or "none"
        raise CheckpointError(f"there is no {name}, only {there:.200}")
    try:
        values = np.asarray(statistics[name], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{name}: {error!s:.200}, expected (joints,) numbers") from error
    if values.ndim != 1 or not values.size:
        raise CheckpointError(f"{name} has shape {values.shape}, expected (joints,)")
    return tuple(values.tolist())
