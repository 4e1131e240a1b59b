# SPDX-License-Identifier: Apache-2.0
"""Where a conversion keeps what is done, so that another run can go on with it."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vla_training.data.errors import DataError
from vla_training.data.files import write_whole

RESULT = "result.json"
_PLAN = "plan.json"
_LOCK = "lock"


def staging_folder(out: Path) -> Path:
    """The folder beside a dataset where its conversion keeps what is done."""
    return out.with_name(f".{out.name}.partial")


@contextmanager
def staging(out: Path, plan: Mapping[str, Any], resume: bool) -> Iterator[Path]:
    """Opens the staging folder of a conversion; it stays when the block is left, unless empty.

    Args:
        out: The dataset's folder.
        plan: All that shapes the dataset, as JSON; a resumed conversion has the same one.
        resume: Go on where there is something to go on with.

    Raises:
        DataError: Another run holds the folder, or left it; or it is of another plan.
    """
    folder = staging_folder(out)
    plan = json.loads(json.dumps(plan))
    if folder.exists() and not resume:
        raise DataError(
            f"{folder} holds an unfinished conversion; go on with --resume, or delete that folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / _LOCK).open("w") as lock:
            _hold(lock, folder)
            _check_plan(folder, plan)
            yield folder
    finally:
        # Only now that the lock is closed: NFS keeps the name of an open file that was deleted.
        with suppress(OSError):
            folder.rmdir()


def _hold(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"{folder} is in use: another vla-convert makes this dataset") from None


def _check_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Compares the plan with that of the run before, or writes it where there was none."""
    file = folder / _PLAN
    if not file.exists():
        write_whole(file, plan)
        return
    differences = _differences(json.loads(file.read_text(encoding="utf-8")), plan)
    if differences:
        raise DataError(
            f"{folder} cannot be resumed, it is of another conversion: "
            f"{'; '.join(differences[:3])}; delete that folder to begin anew"
        )


def clear_staging(folder: Path) -> None:
    """Removes all that the staging folder of a finished conversion holds."""
    # The plan goes last: a folder without one would pass for one of any conversion.
    for path in sorted(folder.iterdir(), key=lambda path: path.name in {_PLAN, _LOCK}):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def was_made_with(dataset: Path, about: Mapping[str, Any]) -> bool:
    """Whether a finished dataset says all of this of how it was made."""
    try:
        text = (dataset / "meta" / "conversion.json").read_text(encoding="utf-8")
        return about.items() <= json.loads(text).items()
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two JSON values differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(str(k), before.get(k), now.get(k)) for k in {**before, **now}]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [
            (str(i), one, other) for i, (one, other) in enumerate(zip(before, now, strict=True))
        ]
    elif before == now:
        return []
    else:
        return [f"{key} was {_short(before)} and is {_short(now)}"]
    return [
        text
        for k, one, other in pairs
        for text in _differences(one, other, f"{key}.{k}".strip("."))
    ]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
