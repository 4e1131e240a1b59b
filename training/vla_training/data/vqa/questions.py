# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures, read one by one; their texts are held in memory, pictures never."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import torch
from pyarrow import compute
from torch.utils.data import Dataset

from vla_nodes.models.value_prompt import IMAGE
from vla_training.data.errors import DataError

MAX_CHARACTERS = 20_000
"""Of a question, and of an answer: as many as the tokenizer takes."""


@dataclass(frozen=True, eq=False)
class VqaItem:
    """A question about a picture, and its answer.

    Attributes:
        image: (3, H, W) uint8 RGB; None for a question without a picture.
        question: May hold ``<image>`` where the picture's place is not in front of it.
        answer: To be learnt.
    """

    image: torch.Tensor | None
    question: str
    answer: str

    def augmented(self, _augmentation: object, _seed: Sequence[int]) -> Self:
        """The same item: of a picture that is cropped or turned, the answer may be another."""
        return self


@dataclass(frozen=True)
class Row:
    """A question as it is listed.

    Attributes:
        entry: Number of what it was read from, for errors.
        picture: Tells pictures apart, and finds them; None for none.
        question: Text.
        answer: Text.
    """

    entry: int
    picture: str | None
    question: str
    answer: str


class Questions(Dataset[VqaItem]):
    """Questions with their pictures, which are read when they are asked for.

    Args:
        source: File or folder that they come from; begins every error.
        table: One row of ``Row`` for each, as ``listed`` makes it.
        read_picture: Reads the picture of that name, and names it by the text behind.
    """

    def __init__(
        self, source: str, table: pa.Table, read_picture: Callable[[str, str], torch.Tensor]
    ) -> None:
        self.source = source
        self._table = table
        self._read_picture = read_picture

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: int) -> VqaItem:
        row = {name: self._table[name][place].as_py() for name in self._table.column_names}
        name = f"{self.source}: entry {row['entry']}: the picture"
        picture = None if row["picture"] is None else self._read_picture(row["picture"], name)
        return VqaItem(picture, row["question"], row["answer"])

    def split(self, seed: int, share: float = 0.05) -> "tuple[Questions, Questions]":
        """Splits into training and validation, by pictures, so that no picture is in both.

        Pictures are ranked by a hash of seed and name, and the last ranks are validated on.
        Each question without a picture stands for itself.

        Args:
            seed: Another seed gives another split.
            share: Of the pictures to validate on; at least one.

        Raises:
            DataError: There are fewer than two pictures.
        """
        pictures, entries = self._table["picture"].to_pylist(), self._table["entry"].to_pylist()
        keys = [
            f"without {entry}" if picture is None else f"of {picture}"
            for picture, entry in zip(pictures, entries, strict=True)
        ]
        ranks = {key: hashlib.sha256(f"{seed} {key}".encode()).digest() for key in set(keys)}
        if len(ranks) < 2:
            raise DataError(
                f"{self.source} has questions about {len(ranks)} picture, expected at least 2: "
                "one to learn from, one to validate on"
            )
        count = min(max(1, round(share * len(ranks))), len(ranks) - 1)
        held = set(sorted(ranks, key=ranks.__getitem__)[-count:])
        validated = pa.array([key in held for key in keys])
        return self._of(compute.invert(validated)), self._of(validated)

    @property
    def digest(self) -> str:
        """Of the texts and the names of the pictures."""
        digest = hashlib.sha256()
        for row in self._table.to_batches(1024):
            digest.update(repr(row.to_pydict()).encode())
        return digest.hexdigest()[:16]

    def _of(self, mask: pa.Array) -> "Questions":
        return Questions(self.source, self._table.filter(mask).combine_chunks(), self._read_picture)


def listed(source: str, rows: Iterable[Row]) -> pa.Table:
    """The table of questions. As Arrow it is small, and shared with the processes that load.

    Raises:
        DataError: There is none.
    """
    schema = pa.schema(
        [("entry", pa.int64()), *((n, pa.large_string()) for n in ("picture", *_TEXTS))]
    )
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row in rows:
        for name, values in columns.items():
            values.append(getattr(row, name))
    if not columns["entry"]:
        raise DataError(f"{source} has no questions, expected one at least")
    return pa.table(columns, schema)


_TEXTS = ("question", "answer")


def checked_row(source: str, entry: int, picture: str | None, question: Any, answer: Any) -> Row:
    """A question out of a file.

    A mark of the picture at either end of the question says no more than that there is a
    picture; one inside says where it stands.

    Raises:
        DataError: It is no text, empty, too long, or asks about a picture that there is not.
    """
    where = f"{source}: entry {entry}"
    for name, text in zip(_TEXTS, (question, answer), strict=True):
        if not isinstance(text, str):
            raise DataError(f"{where}: the {name} is {text!r:.50}, expected a text")
        if len(text) > MAX_CHARACTERS:
            raise DataError(
                f"{where}: the {name} has {len(text)} characters, expected at most {MAX_CHARACTERS}"
            )
        if not _is_unicode(text):
            raise DataError(f"{where}: the {name} has half of a Unicode character")
    if IMAGE in question and picture is None:
        raise DataError(f"{where}: the question has {IMAGE}, and the entry has no picture")
    question, answer = question.strip(), answer.strip()
    while question.startswith(IMAGE):
        question = question.removeprefix(IMAGE).lstrip()
    while question.endswith(IMAGE):
        question = question.removesuffix(IMAGE).rstrip()
    for name, text in zip(_TEXTS, (question, answer), strict=True):
        if not text:
            raise DataError(f"{where}: the {name} is empty, expected a text")
    return Row(entry, picture, question, answer)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
