# SPDX-License-Identifier: Apache-2.0
"""The tables of a dataset as arrays, and what is wrong with their files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_training.data.bags.errors import shown
from vla_training.data.checks.dataset_files import Dataset
from vla_training.data.checks.findings import Finding, count
from vla_training.data.errors import DataError


def read_tables(dataset: Dataset) -> Iterator[Finding]:
    """Reads every table into ``dataset.columns``, and says what is wrong with the files."""
    root = dataset.root
    claimed = {dataset.data_file(episode) for episode in dataset.records}
    # LeRobot reads whatever lies there, claimed by an episode or not.
    lying = {path.relative_to(root).as_posix() for path in root.glob("data/*/*.parquet")}
    wanted = {
        key: feature
        for key, feature in dataset.features.items()
        if feature["dtype"] not in ("video", "image", "language")
    }
    parts: dict[str, list[Any]] = {key: [] for key in wanted}
    for name in sorted(claimed | lying):
        if name not in claimed:
            yield Finding("file", name, "fail", "no episode lies in this table; LeRobot reads it")
        if name not in lying:
            yield Finding("file", name, "fail", "the table is missing or not in data/*/")
            continue
        try:
            table = pq.read_table(root / name, columns=_known(root / name, wanted))
            for key, feature in wanted.items():
                parts[key].append(_column(table, key, feature))
            yield Finding("file", name, "ok", "read", table.num_rows)
        except (pa.ArrowException, OSError, DataError) as error:
            yield Finding("file", name, "fail", f"cannot be read: {error}")
            return
    for key, feature in wanted.items():
        if not parts[key]:
            continue
        if feature["dtype"] == "string":
            dataset.texts[key] = [text for part in parts[key] for text in part]
        else:
            dataset.columns[key] = np.concatenate(parts[key])
    images = [key for key, feature in dataset.features.items() if feature["dtype"] == "image"]
    for key in images:
        yield Finding("picture", key, "warn", "pictures inside the tables are not looked at")


def _known(path: Path, wanted: Mapping[str, Any]) -> list[str]:
    """The wanted columns that the file has; the missing ones are told one by one."""
    names = set(pq.read_schema(path).names)
    missing = sorted(set(wanted) - names)
    if missing:
        raise DataError(f"{count(len(missing), 'column')} missing: {shown(', '.join(missing))}")
    return list(wanted)


def _column(table: pa.Table, key: str, feature: Mapping[str, Any]) -> Any:
    """A column as an array of the feature's shape, or as a list of texts."""
    column = table.column(key).combine_chunks()
    if column.null_count:
        raise DataError(f"column {shown(key, 80)} has {count(column.null_count, 'empty cell')}")
    if feature["dtype"] == "string":
        return column.to_pylist()
    shape = tuple(feature["shape"])
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if isinstance(column, pa.ExtensionArray):
        return np.stack(column.to_numpy(zero_copy_only=False)).reshape(table.num_rows, *shape)
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype != feature["dtype"]:
        raise DataError(f"column {shown(key, 80)} is {values.dtype}, expected {feature['dtype']}")
    wide = int(np.prod(shape))
    if len(values) != table.num_rows * wide:
        raise DataError(f"column {shown(key, 80)} does not have {wide} values in every row")
    return values if shape == (1,) else values.reshape(table.num_rows, *shape)
