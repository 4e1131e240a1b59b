# SPDX-License-Identifier: Apache-2.0
"""Folders of checkpoints: found, written whole or not at all, and told from each other."""

import ctypes
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import sync

CONFIG = "config.json"


def find_checkpoint(source: str | Path) -> Path:
    """The folder of a checkpoint.

    Args:
        source: A folder, or a repository of the Hugging Face Hub, OWNER/NAME. That is fetched,
            which without a network takes its time to fail; with ``HF_HUB_OFFLINE`` set it is
            only looked for among those that were.

    Raises:
        CheckpointError: There is no such folder, nor such a repository.
    """
    if not str(source):
        raise CheckpointError("no checkpoint is named, expected a folder")
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder} is a file, expected the folder of a checkpoint")
    # Where OWNER is a folder here, a folder was meant, and nobody waits for the network.
    repository = re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", str(source))
    if not repository or folder.parent.is_dir():
        raise CheckpointError(f"{folder} is no folder, nor OWNER/NAME of a repository on the Hub")
    from huggingface_hub import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    patterns = ["*.json", "*.safetensors", "*tokenizer.model"]
    try:
        return Path(
            snapshot_download(str(source), allow_patterns=patterns, local_files_only=offline)
        )
    except (OSError, ValueError) as error:
        why = "HF_HUB_OFFLINE is set, and it was never fetched" if offline else "the Hub says"
        raise CheckpointError(f"{source} is no folder; {why}: {error!s:.200}") from error


def written(folder: Path) -> tuple[int, ...]:
    """Another one for every checkpoint that has had this name.

    Raises:
        CheckpointError: There is no checkpoint.
    """
    try:
        about = (folder / CONFIG).stat()
    except FileNotFoundError:
        raise CheckpointError(f"{folder / CONFIG} is missing") from None
    return about.st_dev, about.st_ino, about.st_mtime_ns


def check_same(folder: Path, before: tuple[int, ...]) -> None:
    """Whether all was read of one checkpoint: training puts new ones under the same name.

    Raises:
        CheckpointError: It was replaced.
    """
    if written(folder) != before:
        raise CheckpointError(f"{folder} was replaced while it was read; read it again")


def write_folder(folder: Path, fill: Callable[[Path], None], own: Collection[str]) -> None:
    """Writes a checkpoint's folder aside, which then takes its name in one step.

    Args:
        folder: To be. One that holds a checkpoint is exchanged; any other folder that is not
            empty is left alone.
        fill: Writes into the folder that it is given, and checks it.
        own: Names of files by which a checkpoint that was written here is known.

    Raises:
        CheckpointError: The place is taken, or ``fill`` found a fault.
        OSError: The disk refused.
    """
    folder = Path(folder).resolve()
    ours = all((folder / name).is_file() for name in own)
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            f"{folder} is something else than a checkpoint that was written here; name another"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        fill(partial)
        _publish(partial, folder)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(partial), str(folder))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, folder: Path) -> None:
    """Gives a folder its final name once all of it is on the disk, in one step."""
    for path in (*partial.rglob("*"), partial):
        sync(path)
    if folder.exists():
        _exchange(partial, folder)
    else:
        partial.rename(folder)
    sync(folder.parent)


def _exchange(one: Path, other: Path) -> None:
    """Exchanges the names of two folders; Python has no function for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange):
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: cannot replace it here; name another", other)
