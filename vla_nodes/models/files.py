# SPDX-License-Identifier: Apache-2.0
"""Small files of a checkpoint: bounded when read, whole when written."""

import json
import os
from pathlib import Path
from typing import Any

from vla_nodes.models.errors import CheckpointError


def read_text(path: Path, limit: int) -> str:
    """The text of a file.

    Args:
        path: Of the file.
        limit: Most bytes that such a file has.

    Raises:
        CheckpointError: It is missing, larger, or no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise CheckpointError(f"{path} is too large: expected at most {limit} bytes")
        return content.decode()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!s:.200}") from error


def read_object(path: Path, limit: int = 1 << 20) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: Of the file.
        limit: Most bytes that such a file has.

    Raises:
        CheckpointError: It is missing, larger, or holds something else.
    """
    try:
        value = json.loads(read_text(path, limit))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def write_text(path: Path, text: str) -> None:
    """Writes a file aside, then renames it, so that it is whole or not there.

    Raises:
        OSError: The disk refused.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file of that name
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_object(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object for people to read, whole or not at all.

    Raises:
        OSError: The disk refused.
    """
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")
