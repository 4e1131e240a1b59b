# SPDX-License-Identifier: Apache-2.0
"""Which code is running."""

import subprocess
from pathlib import Path

TIMEOUT = 5.0  # s


def code_version(folder: Path) -> str:
    """Commit of a git checkout, with ``-dirty`` where tracked files were changed since.

    Args:
        folder: Root of the checkout.

    Returns:
        Empty where ``folder`` is no checkout, or git cannot tell.
    """
    if not (folder / ".git").exists():
        return ""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    # Without optional locks: a commit that the user makes meanwhile must not fail.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    return done.stdout.strip()
