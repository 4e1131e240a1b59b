# SPDX-License-Identifier: Apache-2.0
"""A new version of a folder that takes the old one's place in one step."""

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_training.data.errors import DataError

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100  # paths are relative to the working directory
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextmanager
def sole_access(folder: Path) -> Iterator[None]:
    """Keeps other processes from replacing a folder, and tidies up after killed ones.

    Raises:
        DataError: It is no folder, or another process has sole access to it.
    """
    new, old = _beside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    with _locked(folder):
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def replacement(folder: Path) -> Iterator[Path]:
    """A copy of a folder to be changed with ``rewrite``, put in its place at the end.

    Files are shared between the two by hard links, so that videos are not copied. Whoever is
    killed, or whatever fails, the folder is the old or the new one, whole. Only where the file
    system cannot exchange two folders (NFS) is there a moment without either, which the next
    ``sole_access`` mends.

    Args:
        folder: To which the caller has sole access.

    Yields:
        The copy.

    Raises:
        DataError: It is a mount point.
    """
    if folder.is_mount():
        raise DataError(
            f"{folder} is a mount point, which cannot be replaced; expected a folder inside one"
        )
    new, old = _beside(folder)
    try:
        shutil.copytree(folder, new, symlinks=True, copy_function=_link)
        with _locked(new):  # it is the folder from the exchange on
            yield new
            _exchange(new, folder)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def rewrite(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file of the copy, or adds one, without touching what it shares.

    Args:
        path: Of the file.
        write: Makes the new file at the path that it is given.
    """
    aside = path.with_name(f"{path.name}.new")
    write(aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # exFAT and some network shares have no hard links
        shutil.copy2(source, target)


def _exchange(new: Path, folder: Path) -> None:
    """Swaps two folders: ``renameat2``, which Python has no function for."""
    paths = _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(folder)
    if _LIBC.renameat2(*paths, _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in _NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(folder))
    _, old = _beside(folder)
    folder.rename(old)
    new.rename(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DataError(f"{folder} is being changed by another process") from error
    except OSError:  # NFS locks no folders
        pass
    try:
        yield
    finally:
        os.close(descriptor)
