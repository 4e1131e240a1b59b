# SPDX-License-Identifier: Apache-2.0
"""Joint state messages to vectors, by joint name."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import StateSource
from vla_nodes.observation.errors import JointError

Vector = npt.NDArray[np.float64]


class JointReader:
    """Reads the vector of one state source out of its messages.

    A message may list its joints in any order, and may list more than are asked for. Where
    the names are found is remembered for as long as the names stay the same.
    """

    def __init__(self, source: StateSource) -> None:
        self._source = source
        self._names: list[str] = []
        self._index: npt.NDArray[np.intp] | None = None

    def read(self, message: Any) -> Vector:
        """Reads one message.

        Args:
            message: ``sensor_msgs/msg/JointState``; ``name`` and the fields of the source are used.

        Returns:
            (S,) float64, ordered like ``StateSource.vector_names``.

        Raises:
            JointError: A joint is missing or there twice, a field is of another length than
                the names, or a value is not finite.
        """
        if self._index is None or message.name != self._names:
            self._index = self._locate(message.name)
            self._names = list(message.name)
        return np.concatenate(
            [self._read_field(message, field, self._index) for field in self._source.fields]
        )

    def _locate(self, names: list[str]) -> npt.NDArray[np.intp]:
        position = {name: i for i, name in enumerate(names)}
        if len(position) < len(names):
            twice = next(name for i, name in enumerate(names) if position[name] != i)
            raise JointError(f"joint {twice!r} is in the message twice")
        for joint in self._source.joints:
            if joint not in position:
                raise JointError(
                    f"joint {joint!r} is missing, found {', '.join(names) or 'no names'}"
                )
        return np.array([position[joint] for joint in self._source.joints], np.intp)

    def _read_field(self, message: Any, field: str, index: npt.NDArray[np.intp]) -> Vector:
        values = np.asarray(getattr(message, field), np.float64)
        if len(values) != len(message.name):
            raise JointError(f"{field} has {len(values)} values for {len(message.name)} joints")
        values = values[index]
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise JointError(f"{field} of joint {self._source.joints[bad]!r} is {values[bad]}")
        if self._source.units == "deg" and field != "effort":
            values *= math.pi / 180.0
        return values
