# SPDX-License-Identifier: Apache-2.0
"""How the states and actions of a model are scaled: by those that it learns from."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.scaling import Mode
from vla_training.data.errors import DataError
from vla_training.data.loading.frame_table import FrameTable
from vla_training.data.schema import ACTION, STATE, DatasetSchema


def frame_scaling(tables: Sequence[FrameTable], schema: DatasetSchema, mode: Mode) -> Normalization:
    """Measures every frame of some tables.

    The quantiles that LeRobot keeps with a dataset are means of each episode's own. Where
    episodes differ, as with a table laid anew each time, a fifth of all states can lie outside
    them, and a prompt cuts these off.

    Args:
        tables: Of the training episodes, of one robot.
        schema: Names the elements.
        mode: Quantiles of 1 and 99 percent, or mean and standard deviation.

    Raises:
        DataError: An element is not finite, or never changes.
    """
    vectors = {
        STATE: np.concatenate([table.state for table in tables]),
        ACTION: np.concatenate([table.action for table in tables]),
    }
    statistics = {key: _statistics(rows.astype(np.float64)) for key, rows in vectors.items()}
    try:
        return Normalization.of_statistics(
            statistics, schema.state_names, schema.action_names, mode
        )
    except CheckpointError as error:
        raise DataError(f"the training episodes cannot be scaled: {error}") from error


def _statistics(rows: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Of (N, D), by element."""
    q01, q99 = np.quantile(rows, [0.01, 0.99], axis=0)
    return {"q01": q01, "q99": q99, "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
