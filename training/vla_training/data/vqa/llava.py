# SPDX-License-Identifier: Apache-2.0
"""Questions in the form of LLaVA-Instruct (https://arxiv.org/abs/2304.08485): JSON and pictures.

The file holds a list of ``{"id", "image", "conversations": [{"from", "value"}, ...]}``, where
"human" and "gpt" take turns, and ``image`` is a path in the folder of pictures.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vla_training.data.errors import DataError
from vla_training.data.vqa.pictures import MAX_BYTES, decode_picture
from vla_training.data.vqa.questions import Questions, Row, checked_row, listed

_LARGEST = 2 << 30  # bytes; the mix of 665,000 conversations has 1.0 GB
_LONGEST = 1024  # characters of a path
_SPEAKERS = ("human", "gpt")


def read_llava(file: Path, pictures: Path | None) -> Questions:
    """Opens conversations; each question with its answer becomes an item of its own.

    That all pictures are there is seen at once, and what is in them when they are read.

    Args:
        file: JSON.
        pictures: Folder, which no path may leave; None where no entry has a picture.

    Raises:
        DataError: A file is missing, or holds something else.
    """
    if pictures is not None and not pictures.is_dir():
        raise DataError(f"{pictures} is no folder, expected that of the pictures of {file}")
    root = None if pictures is None else pictures.resolve()
    entries = _read_entries(file)
    rows = (row for k, entry in enumerate(entries) for row in _rows(file, root, k, entry))
    return Questions(str(file), listed(str(file), rows), partial(_read_picture, root))


def _read_entries(file: Path) -> list[Any]:
    if not file.is_file():
        raise DataError(f"{file} is no file, expected conversations in JSON")
    if file.stat().st_size > _LARGEST:
        raise DataError(f"{file} is too large: expected at most {_LARGEST} bytes")
    try:
        entries = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error!s:.200}") from error
    if not isinstance(entries, list):
        raise DataError(f"{file} holds a {type(entries).__name__}, expected a list of entries")
    return entries


def _rows(file: Path, root: Path | None, number: int, entry: Any) -> Iterator[Row]:
    where = f"{file}: entry {number}"
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"{where} is {entry!r:.100}, expected an object with conversations")
    speakers = [turn.get("from") for turn in turns]
    if not turns or len(turns) % 2 or speakers != [*_SPEAKERS] * (len(turns) // 2):
        raise DataError(
            f"{where} has turns of {speakers!r:.100}, expected human and gpt alternately"
        )
    picture = entry.get("image")
    if picture is not None:
        _find(root, picture, f"{where}: image")
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        yield checked_row(str(file), number, picture, question.get("value"), answer.get("value"))


def _find(root: Path | None, picture: Any, where: str) -> Path:
    """The file of a picture; links count as where they lead."""
    if root is None:
        raise DataError(f"{where} is {picture!r:.100}, and no folder of pictures is given")
    if not isinstance(picture, str) or not 0 < len(picture) <= _LONGEST or "\0" in picture:
        raise DataError(
            f"{where} is {picture!r:.100}, expected a path of at most {_LONGEST} characters"
        )
    path = (root / picture).resolve()
    if not path.is_relative_to(root):
        raise DataError(f"{where} is {picture!r:.200}, expected a path that stays in {root}")
    if not path.is_file():
        raise DataError(f"{where} is {picture!r:.200}, and there is no such file in {root}")
    return path


def _read_picture(root: Path | None, picture: str, name: str) -> torch.Tensor:
    path = _find(root, picture, name)
    name = f"{name} {path}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{name} is too large: expected at most {MAX_BYTES} bytes")
    return decode_picture(content, name)
