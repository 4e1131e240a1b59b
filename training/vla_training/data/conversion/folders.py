# SPDX-License-Identifier: Apache-2.0
"""Folders that are on the disk wholly or not at all."""

import errno
import json
import os
from pathlib import Path
from typing import Any


def publish(partial: Path, folder: Path) -> None:
    """Give a folder its final name once all of it is on the disk.

    Raises:
        OSError: The disk is full, or the name is taken.
    """
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    partial.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of network file systems that do not take folders
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read; names of files that are not Unicode come back as they were.

    Raises:
        OSError: The disk is full.
    """
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
