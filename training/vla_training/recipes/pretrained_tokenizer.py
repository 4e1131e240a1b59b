# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a published Gemma 3."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vla_nodes.models.checkpoint_folder import CONFIG, find_checkpoint
from vla_nodes.models.entries import Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object, read_text, write_object
from vla_nodes.models.tokenizer import Tokenizer

_LARGEST = 128 << 20  # bytes; that of Gemma 3 has 33 MB


def gemma_tokenizer(source: str) -> Tokenizer:
    """The tokenizer in the folder of a Gemma 3.

    Tokens beyond its token embedding are left out: published ones have one for pictures, which
    only the larger models know.

    Args:
        source: Folder of Gemma 3, or OWNER/NAME on the Hub.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    folder = find_checkpoint(source)
    rows = Entries(folder / CONFIG, read_object(folder / CONFIG)).integer("vocab_size")
    file = folder / "tokenizer.json"
    if not file.is_file():
        return Tokenizer.read(folder)  # which says what is missing
    about = read_object(file, _LARGEST)
    added = about.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise CheckpointError(f"{file}: added_tokens is no list of objects")
    kept = [token for token in added if not _is_beyond(token.get("id"), rows)]
    with TemporaryDirectory() as name:
        write_object(Path(name) / file.name, {**about, "added_tokens": kept})
        for other in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / other).is_file():
                text = read_text(folder / other, _LARGEST)
                (Path(name) / other).write_text(text, encoding="utf-8")
        try:
            return Tokenizer.read(Path(name))
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(name, str(folder))) from error


def _is_beyond(token: Any, rows: int) -> bool:
    return type(token) is int and token >= rows
