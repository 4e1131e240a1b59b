# SPDX-License-Identifier: Apache-2.0
"""The folder of a bag: which files belong to it, and what was written beside them."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from vla_training.data.bags.errors import BagError, bag_errors, shown
from vla_training.data.bags.files import SUFFIXES

METADATA = "metadata.yaml"
EPISODE = "episode.json"  # what a recording says of itself from its start

_MAX_FILE = 2 << 20  # bytes
_MAX_ENTRIES = 100
_MAX_TEXT = 10_000  # characters


@dataclass(frozen=True)
class BagFolder:
    """What a folder says.

    Attributes:
        files: In order.
        custom: The recording's own facts.
        notes: What is missing, in words.
    """

    files: tuple[Path, ...]
    custom: Mapping[str, str]
    notes: tuple[str, ...]


def read_folder(folder: Path) -> BagFolder:
    """Reads the metadata of a bag; where there is none, its files count in natural order.

    Raises:
        BagError: No files, or one that lies outside the folder.
    """
    present = storage_files(folder)
    notes = []
    information = None
    try:
        information = _information(folder)
    except ValueError as error:
        notes.append(f"{METADATA} {error}: the files beside it were read in their natural order")
    if information is None:
        files, custom = present, _texts(_episode(folder))
    else:
        custom = _texts(information.get("custom_data"))
        named = (_listed(folder, name) for name in information["relative_file_paths"])
        listed = list(dict.fromkeys(named))
        files = [path for path in listed if path.exists()]
        for what, paths in (
            ("is missing", [p for p in listed if p not in files]),
            (f"is not read: {METADATA} does not list it", [p for p in present if p not in files]),
        ):
            notes += [f"{shown(path.name)} {what}" for path in paths]
    if not files:
        raise BagError(f"{shown(folder, 500)} holds no bag: expected .mcap or .db3 files")
    return BagFolder(tuple(inside(folder, path) for path in files), custom, tuple(notes))


def storage_files(folder: Path) -> list[Path]:
    """Files that look like those of bags, in natural order."""
    with bag_errors(folder):
        return natural_order(
            path
            for path in folder.iterdir()
            if path.name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
        )


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sorts by name such that 2 comes before 10."""

    def key(path: Path) -> list[list[tuple[int, str]]]:
        parts = (re.split(r"(\d+)", part) for part in path.parts)
        return [[(int(p), "") if p.isdecimal() else (-1, p) for p in part] for part in parts]

    return sorted(paths, key=key)


def inside(folder: Path, path: Path) -> Path:
    """The path, where it lies in the folder, symbolic links followed.

    Raises:
        BagError: It leads out of the folder.
    """
    with bag_errors(path):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BagError(f"{shown(path, 500)} leads out of the bag's folder")
    return path


def _listed(folder: Path, name: str) -> Path:
    """A file that the metadata names."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise BagError(
            f"{shown(folder, 500)}: {METADATA} names the file {shown(name)!r}, expected one in "
            "the bag's folder"
        )
    # Bags before version 4 name their folder too.
    return next((p for p in (folder / name, folder / parts[-1]) if p.exists()), folder / name)


def _information(folder: Path) -> dict[str, Any] | None:
    """The metadata, every scalar a text; None where there is none.

    Raises:
        ValueError: It cannot be used; the text goes on from its name.
    """
    text = _text(folder, METADATA)
    if text is None:
        return None
    try:
        # The safe loader that knows no tags, no merging and no types: a hash of digits stays a
        # text, and nothing grows. Not libyaml's, which overflows the stack on deep nesting.
        information = yaml.load(text, Loader=yaml.BaseLoader)["rosbag2_bagfile_information"]
        names = information["relative_file_paths"]
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise ValueError("lists no files")
    except (yaml.YAMLError, LookupError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError("is not the metadata of a bag") from error
    compression = str(information.get("compression_format", ""))
    mode = str(information.get("compression_mode", "")).upper()
    if mode not in ("", "NONE") and compression != "zstd":
        raise BagError(
            f"{shown(folder, 500)} is compressed with {shown(compression)!r}, expected 'zstd'"
        )
    return dict(information)


def _episode(folder: Path) -> object:
    try:
        return json.loads(_text(folder, EPISODE) or "{}")
    except (ValueError, RecursionError):
        return {}


def _text(folder: Path, name: str) -> str | None:
    """Content of a small file; None where there is none.

    Raises:
        ValueError: Too large, or not UTF-8.
    """
    path = inside(folder, folder / name)
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_FILE:
        raise ValueError(f"has more than {_MAX_FILE} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error


def _texts(facts: object) -> dict[str, str]:
    """The texts among the facts that a recording states."""
    items = facts.items() if isinstance(facts, dict) else ()
    texts = {k: v for k, v in items if isinstance(k, str) and isinstance(v, str)}
    short = {k: v for k, v in texts.items() if len(k) <= _MAX_TEXT and len(v) <= _MAX_TEXT}
    return dict(list(short.items())[:_MAX_ENTRIES])
