# SPDX-License-Identifier: Apache-2.0
"""The recorder on a disk that takes nothing while the file named by STALL exists."""

import os
import time
from pathlib import Path
from typing import Any

from vla_nodes.nodes.recorder import main
from vla_nodes.recording import episode_writer
from vla_nodes.recording.mcap_file import McapFile

STALL = Path(os.environ["STALL"])


def wait_for_disk() -> None:
    while STALL.exists():
        STALL.with_suffix(".reached").touch()
        time.sleep(0.02)


class StallingFile(McapFile):
    """Waits before it is made, and before it writes."""

    def __init__(self, *arguments: Any) -> None:
        wait_for_disk()
        super().__init__(*arguments)

    def flush(self) -> None:
        wait_for_disk()
        super().flush()


episode_writer.McapFile = StallingFile  # type: ignore[misc]

if __name__ == "__main__":
    main()
