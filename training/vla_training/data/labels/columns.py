# SPDX-License-Identifier: Apache-2.0
"""Columns of a LeRobot v3 dataset on disk: read, added, replaced, removed.

LeRobot's ``modify_features`` copies every video into a second dataset, drops files that it
does not know and makes no statistics, so the parquet files are rewritten here.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vla_training.data.errors import DataError
from vla_training.data.labels.column_statistics import Statistics, of_all, of_episodes
from vla_training.data.labels.metadata import INFO, STATS, write_json
from vla_training.data.labels.replacement import rewrite

_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)


@dataclass(frozen=True)
class Frames:
    """What a dataset holds, frame by frame, in the order of its files.

    Attributes:
        lengths: (E,) frames of each episode.
        columns: (N,) by name.
    """

    lengths: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[Any]]

    def of_episodes(self, column: str) -> npt.NDArray[Any]:
        """A column that is the same throughout an episode, (E,).

        Raises:
            DataError: It changes within an episode.
        """
        values = self.columns[column]
        firsts = values[np.cumsum(self.lengths) - self.lengths]
        changed = np.flatnonzero(values != np.repeat(firsts, self.lengths))
        if changed.size:
            episode = np.searchsorted(np.cumsum(self.lengths), changed[0], side="right")
            raise DataError(
                f"{column} changes within episode {episode}, expected one for all of it"
            )
        return firsts

    def with_column(self, name: str, values: npt.NDArray[Any]) -> "Frames":
        """The same frames with one more column, (N,), or with another of that name."""
        return Frames(self.lengths, {**self.columns, name: values})


def read_frames(root: Path, info: Mapping[str, Any], columns: Collection[str]) -> Frames:
    """Reads columns of one number per frame.

    Args:
        root: Of the dataset.
        info: Of the dataset.
        columns: Names.

    Raises:
        DataError: A column is missing, is no number or has gaps, or the frames are not those
            that ``info.json`` counts.
    """
    for name in columns:
        _check_feature(root, info, name)
    wanted = list(dict.fromkeys(["episode_index", "frame_index", *columns]))
    try:
        tables = [pq.read_table(file, columns=wanted) for file in data_files(root)]
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{root / 'data'} cannot be read: {str(error).splitlines()[0]}") from error
    for name in wanted:
        if name not in table.column_names:
            raise DataError(f"{root / 'data'} has no column {name}")
        kind = table[name].type
        if not any(is_kind(kind) for is_kind in _NUMBERS):
            raise DataError(f"{root / 'data'}: {name} holds {kind!s:.100}, expected numbers")
        # A NaN that went through pandas has become a gap, and becomes NaN again.
        if table[name].null_count and not pa.types.is_floating(table[name].type):
            raise DataError(f"{root / 'data'}: column {name} has gaps")
    arrays = {name: table[name].to_numpy() for name in wanted}
    position = arrays.pop("frame_index")
    starts = np.flatnonzero(position == 0)
    lengths = np.diff(starts, append=len(position))
    if (
        len(starts) != info["total_episodes"]
        or starts[0] != 0
        or not np.array_equal(position, np.arange(len(position)) - np.repeat(starts, lengths))
        or not np.array_equal(
            arrays.pop("episode_index"), np.repeat(np.arange(len(starts)), lengths)
        )
    ):
        raise DataError(
            f"{root / 'data'} does not hold the {info['total_episodes']} episodes of {INFO}, "
            "one after another and frame by frame"
        )
    return Frames(lengths, arrays)


def read_texts(root: Path, column: str) -> npt.NDArray[np.int64]:
    """Which text each frame has, (N,): the same number for the same text, -1 for none.

    Raises:
        DataError: The column is missing, or holds no texts.
    """
    try:
        tables = [pq.read_table(file, columns=[column]) for file in data_files(root)]
        texts = pa.concat_tables(tables, promote_options="permissive")[column]
        kind = texts.type.value_type if pa.types.is_dictionary(texts.type) else texts.type
        if not any(is_text(kind) for is_text in _TEXTS):
            raise DataError(f"{root / 'data'}: {column} holds {kind!s:.100}, expected texts")
        texts = texts.cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
    except (pa.ArrowException, OSError, LookupError) as error:
        raise DataError(f"{root / 'data'}: {column}: {str(error).splitlines()[0]}") from error
    empty = np.array([text == "" for text in texts.dictionary.to_pylist()])
    codes = texts.indices.to_numpy().astype(np.int64)
    return np.where(empty[codes], -1, codes)


def write_columns(
    root: Path,
    info: Mapping[str, Any],
    stats: Mapping[str, Any],
    columns: Mapping[str, npt.NDArray[Any]],
    lengths: npt.NDArray[np.int64],
    remove: Collection[str] = (),
) -> None:
    """Puts columns into a dataset, with their features and statistics.

    Args:
        root: Of the dataset, which nobody else reads yet: this takes many steps.
        info: Its ``info.json``.
        stats: Its ``stats.json``.
        columns: (N,) by name; one that exists is replaced.
        lengths: (E,) frames of each episode.
        remove: Names of columns that go.
    """
    dropped = {*columns, *remove}
    start = 0
    for path in data_files(root):
        end = start + pq.read_metadata(path).num_rows
        slices = {name: pa.array(values[start:end]) for name, values in columns.items()}
        _rewrite_table(path, slices, dropped)
        start = end
    episodes = {name: of_episodes(values, lengths) for name, values in columns.items()}
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        _rewrite_table(path, _episode_columns(path, episodes), dropped)
    features = {name: info["features"][name] for name in info["features"] if name not in dropped}
    stats = {name: stats[name] for name in stats if name not in dropped}
    for name, values in columns.items():
        features[name] = {"dtype": str(values.dtype), "shape": [1], "names": None}
        stats[name] = of_all(values, episodes[name])
    write_json(root / INFO, {**info, "features": features})
    write_json(root / STATS, stats)


def data_files(root: Path) -> list[Path]:
    """The dataset's tables, in LeRobot's order."""
    return sorted((root / "data").glob("*/*.parquet"))


def _check_feature(root: Path, info: Mapping[str, Any], name: str) -> None:
    feature = info["features"].get(name)
    if feature is None:
        raise DataError(f"{root} has no column {name!r:.100}")
    kind, shape = feature.get("dtype"), feature.get("shape")
    if list(shape or ()) != [1] or not str(kind).startswith(("float", "int", "uint", "bool")):
        raise DataError(f"column {name} is {kind} {shape}, expected one number per frame")


def _episode_columns(
    path: Path, statistics: Mapping[str, Sequence[Statistics]]
) -> dict[str, pa.Array]:
    """Columns ``stats/NAME/STATISTIC`` for the episodes that a file describes."""
    episodes = pq.read_table(path, columns=["episode_index"])["episode_index"].to_pylist()
    return {
        f"stats/{name}/{key}": pa.array([rows[episode][key] for episode in episodes])
        for name, rows in statistics.items()
        for key in rows[0]
    }


def _rewrite_table(path: Path, columns: Mapping[str, pa.Array], dropped: Collection[str]) -> None:
    """Replaces a parquet file, row group by row group, of which LeRobot makes one per episode."""

    def changed(table: pa.Table, start: int) -> pa.Table:
        kept = [n for n in table.column_names if _feature(n) not in dropped]
        table = table.select(kept)
        for name, values in columns.items():
            table = table.append_column(name, values.slice(start, len(table)))
        return table

    def write(new: Path) -> None:
        with pq.ParquetFile(path) as file:
            schema = changed(file.schema_arrow.empty_table(), 0).schema
            schema = schema.with_metadata(_described(schema))
            with pq.ParquetWriter(new, schema, compression="snappy") as writer:
                start = 0
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    new_table = changed(table, start).replace_schema_metadata(schema.metadata)
                    writer.write_table(new_table)
                    start += len(table)

    rewrite(path, write)


def _feature(column: str) -> str:
    """The feature that a column of data or of episodes belongs to."""
    return (
        column.removeprefix("stats/").rpartition("/")[0] if column.startswith("stats/") else column
    )


def _described(schema: pa.Schema) -> dict[bytes, bytes]:
    """Metadata of a changed table, where Hugging Face's library describes each column."""
    metadata = {k: v for k, v in (schema.metadata or {}).items() if k != b"pandas"}
    if b"huggingface" in metadata:
        description = json.loads(metadata[b"huggingface"])
        before = description["info"]["features"]
        description["info"]["features"] = {
            field.name: before[field.name] if field.name in before else _value(field.type)
            for field in schema
        }
        metadata[b"huggingface"] = json.dumps(description).encode()
    return metadata


def _value(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _value(kind.value_type), "_type": "Sequence"}
    return {"dtype": np.dtype(kind.to_pandas_dtype()).name, "_type": "Value"}
