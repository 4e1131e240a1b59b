# SPDX-License-Identifier: Apache-2.0
"""FAST action tokens: a chunk of actions as a short sequence of integers.

Pertsch et al. 2025, https://arxiv.org/abs/2501.09747: a discrete cosine transform over time
packs a smooth chunk into few coefficients; scaled and rounded, most of the others are zero; byte
pair encoding then writes what often stands together as one token.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import dct, idct
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.files import publish, write_json
from vla_training.data.labels.metadata import read_json

# The library merges characters, so that every coefficient is written as one, out of those for
# private use: no step of any tokenizer changes them.
_FIRST_CHARACTER, _CHARACTERS = 0xF0000, 65_534

_TOKENIZER, _SETTINGS = "tokenizer.json", "fast.json"


class FastError(DataError):
    """Actions that cannot be written as tokens, tokens that are no actions, or a bad file."""


@dataclass(frozen=True)
class FastSettings:
    """What a FAST tokenizer knows besides its merges; the content of ``fast.json``.

    Attributes:
        chunk: Actions in a chunk, T.
        dims: Elements of an action, A: the robot's own, without padding.
        scale: Coefficients are multiplied by it, then rounded: half of its inverse is the
            largest error of a coefficient.
        minimum: Smallest rounded coefficient there is a token for.
        maximum: Largest.
    """

    chunk: int
    dims: int
    scale: float
    minimum: int
    maximum: int


@dataclass(frozen=True, eq=False)
class FastTokenizer:
    """Writes chunks of normalised actions as tokens, and reads them back.

    Attributes:
        settings: Shape of a chunk, and the coefficients there are tokens for.
        bpe: Merges of characters, each of which is a coefficient.
    """

    settings: FastSettings
    bpe: Tokenizer

    @classmethod
    def fit(
        cls, chunks: npt.NDArray[np.floating], vocabulary: int, scale: float = 10.0
    ) -> "FastTokenizer":
        """Fits the range of coefficients and the merges; the same chunks give the same ones.

        Args:
            chunks: (N, T, A), normalised.
            vocabulary: Most tokens; there are fewer where no more pairs occur twice.
            scale: Of the coefficients.

        Raises:
            FastError: There are no such chunks, or more values than tokens.
        """
        if chunks.ndim != 3 or not chunks.size:
            raise FastError(f"chunks are of shape {chunks.shape}, expected (N, T, A), none of it 0")
        rounded = rounded_coefficients(chunks, scale)
        low, high = rounded.min(axis=(0, 1)), rounded.max(axis=(0, 1))
        if high.max() - low.min() >= min(vocabulary, _CHARACTERS):
            widest = int(np.argmax(np.maximum(high, -low)))
            raise FastError(
                f"{min(vocabulary, _CHARACTERS)} tokens are too few for coefficients from "
                f"{low.min():g} to {high.max():g}, the furthest in action element {widest}; "
                "expected a larger vocabulary, a smaller scale, or actions without outliers"
            )
        _, chunk, dims = chunks.shape
        settings = FastSettings(chunk, dims, scale, int(low.min()), int(high.max()))
        trainer = BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=_alphabet(settings),
        )
        bpe = Tokenizer(BPE())
        bpe.train_from_iterator((_text(r, settings) for r in rounded), trainer)
        return cls(settings, bpe)

    @property
    def size(self) -> int:
        """Tokens there are."""
        return self.bpe.get_vocab_size()

    def encode(self, chunk: npt.NDArray[np.floating]) -> list[int]:
        """Tokens of a chunk (T, A), each in [0, size), low frequencies first.

        A coefficient out of the fitted range becomes the nearest one in it.

        Raises:
            FastError: It is of another shape, or not finite.
        """
        expected = (self.settings.chunk, self.settings.dims)
        if chunk.shape != expected:
            raise FastError(f"a chunk is of shape {chunk.shape}, expected {expected}")
        return self.bpe.encode(
            _text(rounded_coefficients(chunk, self.settings.scale), self.settings)
        ).ids

    def decode(self, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
        """The chunk (T, A) that tokens stand for.

        Raises:
            FastError: A token is unknown, or they are not a chunk's.
        """
        size = self.size
        for token in tokens:
            if not 0 <= token < size:
                raise FastError(f"token {token} is none of the {size} FAST tokens")
        text = "".join(self.bpe.id_to_token(token) for token in tokens)
        s = self.settings
        if len(text) != s.chunk * s.dims:
            raise FastError(
                f"{len(tokens)} FAST tokens hold {len(text)} coefficients, expected "
                f"{s.chunk} x {s.dims}"
            )
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.float64)
        coefficients = (codes - _FIRST_CHARACTER + s.minimum).reshape(s.chunk, s.dims)
        return idct(coefficients / s.scale, axis=0, norm="ortho")

    def clamped(self, chunks: npt.NDArray[np.floating]) -> float:
        """Share of the coefficients of chunks (N, T, A) that lie out of the fitted range."""
        rounded = rounded_coefficients(chunks, self.settings.scale)
        return float(np.mean((rounded < self.settings.minimum) | (rounded > self.settings.maximum)))

    def write(self, folder: Path) -> None:
        """Writes a new folder, wholly or not at all.

        Raises:
            FastError: There is something of that name.
            OSError: The disk refused.
        """
        if folder.exists():
            raise FastError(f"{folder} exists already, expected the name of a new folder")
        target = folder.absolute()
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        aside.mkdir(parents=True)
        try:
            (aside / _TOKENIZER).write_text(self.bpe.to_str(pretty=True), encoding="utf-8")
            write_json(aside / _SETTINGS, asdict(self.settings))
            publish(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    @classmethod
    def read(cls, folder: Path) -> "FastTokenizer":
        """Reads what ``write`` wrote.

        Raises:
            FastError: A file is missing, damaged, or does not fit the other.
        """
        settings = _settings(folder / _SETTINGS, read_json(folder / _SETTINGS))
        path = folder / _TOKENIZER
        try:
            bpe = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise FastError(f"{path} cannot be read: {shown(error)}") from error
        _check_bpe(path, bpe, settings)
        return cls(settings, bpe)


def rounded_coefficients(chunks: npt.NDArray[np.floating], scale: float) -> npt.NDArray[np.float64]:
    """Whole numbers (..., T, A): the orthonormal DCT-II over time of chunks (..., T, A), scaled.

    Raises:
        FastError: They are not finite, or the scale is not positive.
    """
    if not 0.0 < scale < np.inf:
        raise FastError(f"scale is {scale}, expected a positive number")
    if not np.isfinite(chunks).all():
        raise FastError("actions are not finite")
    return np.rint(dct(chunks.astype(np.float64), axis=-2, norm="ortho") * scale)


def _alphabet(settings: FastSettings) -> list[str]:
    """The characters of all coefficients; the library numbers them in this order, from 0."""
    return [chr(_FIRST_CHARACTER + i) for i in range(settings.maximum - settings.minimum + 1)]


def _text(rounded: npt.NDArray[np.float64], settings: FastSettings) -> str:
    """Coefficients (T, A), clamped to the range, as characters: low frequencies first."""
    codes = np.clip(rounded, settings.minimum, settings.maximum) - settings.minimum
    return (codes + _FIRST_CHARACTER).astype("<u4").tobytes().decode("utf-32-le")


def _settings(path: Path, found: Mapping[str, Any] | None) -> FastSettings:
    """Checks the content of ``fast.json``."""
    if found is None:
        raise FastError(f"{path.parent} holds no FAST tokenizer: it has no {path.name}")
    names = [field.name for field in fields(FastSettings)]
    if sorted(found) != sorted(names):
        raise FastError(f"{path} has {shown(', '.join(found))}, expected {', '.join(names)}")
    for name, value in found.items():
        if type(value) is not int and (name != "scale" or type(value) is not float):
            raise FastError(f"{path} has {name} {shown(value)}, expected a number")
    s = FastSettings(**found)
    if min(s.chunk, s.dims) < 1 or not 0.0 < s.scale < np.inf:
        raise FastError(f"{path} has {shown(s)}, expected a chunk, dims and a scale above 0")
    if not 0 <= s.maximum - s.minimum < _CHARACTERS:
        raise FastError(f"{path} has coefficients from {s.minimum:g} to {s.maximum:g}")
    return s


def _check_bpe(path: Path, bpe: Tokenizer, settings: FastSettings) -> None:
    """Refuses what would lose or change a coefficient."""
    model = bpe.model
    if not isinstance(model, BPE) or any(
        (
            *(bpe.normalizer, bpe.pre_tokenizer, bpe.post_processor, bpe.truncation, bpe.padding),
            *(model.dropout, model.continuing_subword_prefix, model.end_of_word_suffix),
        )
    ):
        raise FastError(f"{path} does something else than byte pair encoding")
    alphabet = _alphabet(settings)
    characters = set(alphabet)
    tokens = [bpe.id_to_token(i) for i in range(bpe.get_vocab_size())]
    if tokens[: len(alphabet)] != alphabet or not all(
        token and characters.issuperset(token) for token in tokens
    ):
        raise FastError(f"{path} has other tokens than the coefficients of {_SETTINGS}")
