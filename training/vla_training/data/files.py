# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are on the disk wholly or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from vla_nodes.models.files import sync
from vla_training.data.errors import DataError


def publish(partial: Path, folder: Path) -> None:
    """Give a folder its final name once all of it is on the disk.

    Raises:
        OSError: The disk is full, or the name is taken.
    """
    for path in (*partial.rglob("*"), partial):
        sync(path)
    partial.rename(folder)
    sync(folder.parent)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read; names of files that are not Unicode come back as they were.

    Raises:
        OSError: The disk is full.
    """
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_whole(file: Path, content: object) -> None:
    """Writes JSON aside, then renames it, so that the file is whole or not there."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write_json(aside, content)
        with aside.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut may leave an empty file of that name
        aside.replace(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise DataError(f"{file}: cannot be written: {error.strerror or error}") from error
