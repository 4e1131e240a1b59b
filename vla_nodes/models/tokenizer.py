# SPDX-License-Identifier: Apache-2.0
"""Text to tokens and back, with the tokenizer that lies in the checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tokenizers

from vla_nodes.models.errors import CheckpointError, faults_of
from vla_nodes.models.files import read_object, read_text, write_object, write_text

TOKENIZER = "tokenizer"
"""Folder of the tokeniser in a checkpoint."""

_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_LARGEST = 128 << 20  # bytes; PaliGemma's has 18 MB
_LONGEST = 20_000  # characters
_SPECIAL = ("bos", "eos", "pad")


class Tokenizer:
    """A tokenizer of texts. Its special tokens are never made of text, whatever that says.

    Attributes:
        bos_id: Begins a prompt.
        eos_id: Ends a target.
        pad_id: Fills rows up.
        size: One above the highest id.

    Args:
        tokenizer: Of the library; becomes the property of this.
        bos: The token's text.
        eos: Likewise.
        pad: Likewise.

    Raises:
        CheckpointError: It has no such token.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        bos: str = "<bos>",
        eos: str = "<eos>",
        pad: str = "<pad>",
    ) -> None:
        # A saved tokenizer may hold these for its owner's own prompts.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._special = {"bos": bos, "eos": eos, "pad": pad}
        self.bos_id, self.eos_id, self.pad_id = (self._id(name) for name in _SPECIAL)
        tokenizer.add_special_tokens([bos, eos, pad])  # where they were but common ones
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads a tokenizer as Hugging Face's libraries save it.

        Args:
            folder: Holds ``tokenizer.json``, and where its special tokens are not ``<bos>``,
                ``<eos>`` and ``<pad>``, ``tokenizer_config.json`` or
                ``special_tokens_map.json``.

        Raises:
            CheckpointError: There is none, it is damaged, or it lacks a special token.
        """
        path = folder / _FILE
        if not path.is_file():
            raise CheckpointError(_missing(folder))
        text = read_text(path, _LARGEST)
        try:
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} is no tokenizer: {error!s:.200}") from error
        special = _special_tokens(folder)
        with faults_of(path):
            return cls(tokenizer, **special)

    def write(self, folder: Path) -> None:
        """Writes what ``read`` and transformers' ``AutoTokenizer`` read.

        Raises:
            OSError: The disk refused.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, self._tokenizer.to_str())
        names = {f"{name}_token": text for name, text in self._special.items()}
        about = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        write_object(folder / _CONFIG, {**about, "clean_up_tokenization_spaces": False})

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special ones.

        Raises:
            ValueError: It is absurdly long, or has what the tokenizer does not know.
        """
        if len(text) > _LONGEST:
            raise ValueError(f"text has {len(text)} characters, expected at most {_LONGEST}")
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"text {text!r:.100} cannot be tokenised: {error!s:.200}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, cut at 20,000 characters; ids that stand for no text are dropped."""
        known = [int(i) for i in ids if 0 <= i < self.size]
        return self._tokenizer.decode(known, skip_special_tokens=True)[:_LONGEST]

    def _id(self, name: str) -> int:
        text = self._special[name]
        found = self._tokenizer.token_to_id(text)
        if found is None:
            raise CheckpointError(
                f"it has no token {text!r:.100}; name its {name} token in {_CONFIG} "
                f'as "{name}_token"'
            )
        return found


def _special_tokens(folder: Path) -> dict[str, str]:
    """Of the files that name them; the configuration goes before the older map."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", _CONFIG):
        path = folder / file
        if path.exists():
            found |= _named(path, read_object(path, _LARGEST))
    return found


def _named(path: Path, values: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for name in _SPECIAL:
        token = values.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None and not isinstance(token, str):
            raise CheckpointError(f"{path}: {name}_token is {token!r:.100}, expected a text")
        if token:
            named[name] = token
    return named


def _missing(folder: Path) -> str:
    found = f"{folder / _FILE} is missing"
    if (folder / "tokenizer.model").is_file():
        found += ", and SentencePiece's tokenizer.model does not replace it"
    return (
        f"{found}; copy the model's own there (of published pi0.5 weights that of "
        "google/paligemma-3b-pt-224) or fit one with vla-fit-tokenizer"
    )
