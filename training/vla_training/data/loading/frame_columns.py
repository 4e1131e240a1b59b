# SPDX-License-Identifier: Apache-2.0
"""Columns of a table of frames as arrays; what cannot become one is refused by name.

Datasets come from many hands: a column ``outcome`` may well hold texts, or ``subtask`` numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError


@dataclass(frozen=True)
class Words:
    """A column of texts, of which few differ.

    Attributes:
        codes: (N,) which text.
        texts: By code.
    """

    codes: npt.NDArray[np.int64]
    texts: tuple[str, ...]

    def __getitem__(self, row: int) -> str:
        return self.texts[self.codes[row]]


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset's table.

    Attributes:
        root: Of the dataset; begins every error.
        table: N rows.
    """

    root: Path
    table: pa.Table

    def integers(self, name: str, unknown: int | None = None) -> npt.NDArray[np.int64]:
        """Whole numbers, (N,).

        Args:
            name: Of the column.
            unknown: What a gap stands for; gaps are refused where it is None.

        Raises:
            DataError: It holds something else.
        """
        column = self._cast(name, self.table[name], pa.int64())
        if unknown is not None:
            column = column.fill_null(unknown)
        if column.null_count:
            raise DataError(f"{self.root}: column {name} has gaps")
        return column.to_numpy()

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """Numbers, (N,); gaps are NaN.

        Raises:
            DataError: It holds something else.
        """
        return self._cast(name, self.table[name], pa.float32()).fill_null(np.nan).to_numpy()

    def vectors(self, name: str, width: int) -> npt.NDArray[np.float32]:
        """Vectors of finite numbers, (N, width).

        Raises:
            DataError: It holds something else.
        """
        column = self.table[name]
        if pa.types.is_nested(column.type):  # LeRobot stores vectors of one element as numbers
            lengths = compute.unique(compute.list_value_length(column)).to_pylist()
            if lengths != [width]:
                raise DataError(
                    f"{self.root}: {name} has rows of {shown(lengths)} values, expected {width}"
                )
            column = compute.list_flatten(column)
        values = self._cast(name, column, pa.float32()).fill_null(np.nan).to_numpy()
        if len(values) != len(self.table) * width:
            raise DataError(f"{self.root}: {name} has single numbers, expected {width} in a row")
        values = values.reshape(-1, width)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            episode, frame = (self.table[c][int(bad[0])] for c in ("episode_index", "frame_index"))
            raise DataError(
                f"{self.root}: {name} is not finite in frame {frame} of episode {episode}"
            )
        return values

    def words(self, name: str) -> Words:
        """Texts, (N,); gaps are empty.

        Raises:
            DataError: It holds something else.
        """
        column = self.table[name]
        kind = column.type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (
            pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
        ):
            raise DataError(f"{self.root}: column {name} is {shown(kind)}, expected texts")
        column = self._cast(name, column, pa.string()).fill_null("").combine_chunks()
        column = column.dictionary_encode()
        return Words(
            column.indices.to_numpy().astype(np.int64), tuple(column.dictionary.to_pylist())
        )

    def _cast(self, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
        try:
            return column.cast(kind, safe=not pa.types.is_floating(kind))
        except pa.ArrowException as error:
            raise DataError(f"{self.root}: column {name}: {shown(error)}") from error
