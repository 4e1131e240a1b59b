# SPDX-License-Identifier: Apache-2.0
"""Build vla_interfaces into the running Python's environment.

With ROS 2 from wheels, their exported CMake files name the Python and numpy
folders of the machine that built them; those are rewritten to this one's first.
With a sourced ROS 2 there is nothing to rewrite. Installing into the
environment's own prefix makes the interfaces importable with nothing sourced.
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

PREFIX = Path(sys.prefix)
ROOT = Path(__file__).resolve().parent.parent
FOREIGN_NUMPY = re.compile(r"/opt/python/[^;\"\s]*/numpy/_core/include")
FOREIGN_PYTHON = re.compile(r"/opt/python/[^;\"\s]*/include/python3\.\d+")


def rewrite_include_folders(prefix: Path) -> int:
    """Point exported CMake files under ``prefix`` at this interpreter; returns how many changed."""
    changed = 0
    for file in prefix.glob("share/*/cmake/*.cmake"):
        text = file.read_text()
        local = FOREIGN_NUMPY.sub(np.get_include(), text)
        local = FOREIGN_PYTHON.sub(sysconfig.get_path("include"), local)
        if local != text:
            # A hard link into an installer's cache must not be written through.
            file.unlink()
            file.write_text(local)
            changed += 1
    return changed


def build() -> None:
    """Build with colcon; on failure, print its output and exit with its status."""
    rewrite_include_folders(PREFIX)
    environment = dict(os.environ)
    environment["PATH"] = f"{PREFIX / 'bin'}:{environment['PATH']}"
    for variable in ("CMAKE_PREFIX_PATH", "AMENT_PREFIX_PATH"):
        others = environment.get(variable, "")
        environment[variable] = f"{PREFIX}:{others}" if others else str(PREFIX)
    work = PREFIX / "interfaces"
    command = [
        *(str(PREFIX / "bin" / "colcon"), "--log-base", str(work / "log"), "build"),
        *("--base-paths", str(ROOT / "ros2_ws" / "src" / "vla_interfaces")),
        *("--build-base", str(work / "build"), "--merge-install", "--install-base", str(PREFIX)),
        *("--event-handlers", "console_direct+"),
        *("--cmake-args", "-DBUILD_TESTING=OFF", "-DCMAKE_BUILD_TYPE=Release"),
        *(f"-DPython3_EXECUTABLE={sys.executable}", "-DPython3_FIND_VIRTUALENV=ONLY"),
    ]
    result = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\nsetup: building vla_interfaces failed")


if __name__ == "__main__":
    build()
