# SPDX-License-Identifier: Apache-2.0
"""Questions in the form of The Cauldron (https://arxiv.org/abs/2405.02246), from local folders.

Each row has ``images``, a list of encoded pictures, and ``texts``, a list of ``{"user",
"assistant", "source"}``. No code of a dataset is run, and nothing is fetched.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets
from pyarrow import compute

from vla_training.data.errors import DataError
from vla_training.data.vqa.pictures import MAX_BYTES, decode_picture
from vla_training.data.vqa.questions import Questions, Row, checked_row, listed

_STATE = "state.json"
"""Of ``Dataset.save_to_disk``; names the files."""
_ROWS = 256  # that are looked at together
_NEEDED = {"images": ("bytes", "path"), "texts": ("user", "assistant")}


def read_cauldron(folder: Path) -> Questions:
    """Opens a dataset; each question with its answer becomes an item of its own.

    Rows with several pictures are refused: what is asked there is mostly about all of them, and
    the model looks at one. Parquet files are unpacked once into the cache of ``datasets``
    (``HF_DATASETS_CACHE``), from which single rows can be read.

    Args:
        folder: Of one split, with its Parquet files, or as ``Dataset.save_to_disk`` wrote it.

    Raises:
        DataError: There is no such dataset, or it holds something else.
    """
    dataset = _open(folder)
    _check_columns(folder, dataset)
    rows = dataset.select_columns(list(_NEEDED)).with_format("arrow")
    table = listed(str(folder), _rows(folder, rows))
    pictures = rows.select_columns("images")
    return Questions(str(folder), table, partial(_read_picture, pictures))


def _open(folder: Path) -> Dataset:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder, expected that of a dataset")
    arrow, parquet = _arrow_files(folder), sorted(map(str, folder.glob("*.parquet")))
    if not arrow and not parquet:
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f"; expected the folder of one split: {splits[:5]}" if splits else ""
        raise DataError(f"{folder} has neither Parquet files nor a saved dataset{hint}")
    try:
        if arrow:
            return concatenate_datasets([Dataset.from_file(str(file)) for file in arrow])
        return Dataset.from_parquet(parquet)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{folder} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _arrow_files(folder: Path) -> list[Path]:
    state = folder / _STATE
    if not state.exists():
        return []
    try:
        names = [str(file["filename"]) for file in json.loads(state.read_bytes())["_data_files"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(f"{state} does not say which files there are: {error!r:.100}") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"{state} names {name!r:.200}, and {folder} has no such file")
    return [folder / name for name in names]


def _check_columns(folder: Path, dataset: Dataset) -> None:
    schema = dataset.data.schema
    for column, needed in _NEEDED.items():
        if column not in schema.names:
            raise DataError(
                f"{folder} has the columns {', '.join(schema.names):.200}, "
                "expected images and texts"
            )
        kind = schema.field(column).type
        of = kind.value_type if isinstance(kind, pa.ListType | pa.LargeListType) else kind
        if of is kind or not isinstance(of, pa.StructType) or not set(needed) <= set(of.names):
            raise DataError(
                f"{folder}: {column} is {kind!s:.200}, expected a list with "
                f"{' and '.join(needed)} of each"
            )


def _rows(folder: Path, dataset: Dataset) -> Iterator[Row]:
    number = 0
    for batch in dataset.iter(_ROWS):
        counts = compute.list_value_length(batch["images"]).fill_null(0).to_pylist()
        _check_pictures(folder, number, counts, batch["images"])
        for count, texts in zip(counts, batch["texts"].to_pylist(), strict=True):
            picture = str(number) if count else None
            for text in texts or ():
                text = text or {}
                yield checked_row(
                    str(folder), number, picture, text.get("user"), text.get("assistant")
                )
            number += 1


def _check_pictures(folder: Path, first: int, counts: list[int], pictures: pa.ChunkedArray) -> None:
    """By their number and length alone, without looking at what is in them."""
    several = next((k for k, count in enumerate(counts) if count > 1), None)
    if several is not None:
        raise DataError(
            f"{folder}: entry {first + several} has {counts[several]} pictures, expected one: "
            "leave out datasets that ask about several"
        )
    flat = compute.list_flatten(pictures)
    lengths = compute.binary_length(compute.struct_field(flat, "bytes")).to_pylist()
    entries = [first + k for k, count in enumerate(counts) if count]
    for entry, length in zip(entries, lengths, strict=True):
        if length is None:
            raise DataError(
                f"{folder}: entry {entry} has its picture elsewhere, expected it in the dataset"
            )
        if length > MAX_BYTES:
            raise DataError(
                f"{folder}: entry {entry}: the picture has {length} bytes, expected at most "
                f"{MAX_BYTES}"
            )


def _read_picture(dataset: Dataset, picture: str, name: str) -> torch.Tensor:
    content = dataset[int(picture)]["images"][0][0]["bytes"].as_py()
    return decode_picture(content, name)
