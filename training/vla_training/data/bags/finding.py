# SPDX-License-Identifier: Apache-2.0
"""Bags by paths and patterns."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vla_training.data.bags.errors import BagError, bag_errors, shown
from vla_training.data.bags.files import SUFFIXES
from vla_training.data.bags.folder import EPISODE, METADATA, natural_order, storage_files


def find_bags(patterns: Sequence[str | Path]) -> list[Path]:
    """Finds bags; a folder that holds bags, at any depth, stands for all of them.

    Hidden folders and ``.partial`` ones are left out. Storage files that lie loose in a
    folder are a bag each; those of a bag's folder are one.

    Args:
        patterns: Paths, or patterns such as ``recordings/2025-*``; ``**`` is any depth.

    Returns:
        Each bag once: pattern by pattern, in natural order.

    Raises:
        BagError: Nothing matches a pattern.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        with bag_errors(pattern):
            bags = _matches(Path(pattern).expanduser())
        if not bags:
            raise BagError(
                f"{shown(pattern, 500)}: no bag found; expected a rosbag2 folder, a folder of "
                f"such, or a file ending in {', '.join(SUFFIXES[:3])}"
            )
        for bag in bags:
            found.setdefault(bag.resolve(), bag)
    return list(found.values())


def _matches(pattern: Path) -> list[Path]:
    if pattern.is_file():
        return [pattern]
    if pattern.is_dir():
        return list(_bags_in(pattern, set()))
    bags: list[Path] = []
    found = glob.glob(os.fspath(pattern), recursive=True)  # noqa: PTH207
    for path in natural_order(map(Path, found)):
        if any(_is_hidden(part) for part in path.parts if part not in pattern.parts):
            continue
        if path.is_file() and path.name.endswith(SUFFIXES):
            bags.append(path.parent if _is_bag(path.parent) else path)
        elif path.is_dir():
            bags += _bags_in(path, set())
    return bags


def _bags_in(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Bags of a folder; folders that were seen before are left out, as links make circles."""
    if (place := folder.resolve()) in seen:
        return
    seen.add(place)
    if _is_bag(folder):
        yield folder
        return
    loose = storage_files(folder)
    folders = [p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name)]
    for path in natural_order([*loose, *folders]):
        if path.is_dir():
            yield from _bags_in(path, seen)
        else:
            yield path


def _is_bag(folder: Path) -> bool:
    """Whether a folder is one bag: it says so, or its files have its name."""
    if (folder / METADATA).exists() or (folder / EPISODE).exists():
        return True
    own = re.compile(rf"{re.escape(folder.resolve().name)}(_\d+)?\.(mcap|db3)(\.zstd)?")
    files = storage_files(folder)
    return bool(files) and all(own.fullmatch(file.name) for file in files)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.endswith(".partial")
