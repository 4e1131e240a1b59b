# SPDX-License-Identifier: Apache-2.0
"""Peak memory of ``vla-convert`` over bags of 1, 4 and 16 minutes: it must not grow with the bag.

One camera of 320 x 240 at 30 Hz in JPEG and joints at 100 Hz, in one bag and so in one process
that converts. Counted is what the command and its processes hold together and alone, that is
without the pages they share or the system may drop (USS).

Run it with ``python benchmarks/convert_memory.py``.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import convert
import psutil
from rosbags.rosbag2 import StoragePlugin, Writer

MINUTES = (1, 4, 16)
CAMERAS = ("front",)
WIDTH, HEIGHT = 320, 240
SAMPLE_PERIOD = 0.1  # s


def main() -> None:
    """Prints the peak for each length, and each against the shortest."""
    convert.CAMERAS, convert.WIDTH, convert.HEIGHT = CAMERAS, WIDTH, HEIGHT
    print(
        f"one camera of {WIDTH} x {HEIGHT} at {convert.FPS} Hz, joints at {convert.JOINT_RATE} Hz"
    )
    print("minutes  frames     bag MB   peak MB   against the shortest   images/s")
    first = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        contract = convert.write_contract(folder, "jpeg")
        for minutes in MINUTES:
            bag = folder / f"bag_{minutes}"
            with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
                convert.write_bag(writer, "jpeg", 0, 60 * minutes)
            begin = time.perf_counter()
            peak = peak_of_conversion(bag, contract, folder / f"dataset_{minutes}") * 1e-6
            seconds = time.perf_counter() - begin
            first = first or peak
            frames = 60 * minutes * convert.FPS
            size = convert.size_of([bag]) * 1e-6
            print(
                f"{minutes:7}{frames:8}{size:11.0f}{peak:10.0f}"
                f"{peak / first:20.2f} x{frames / seconds:11.0f}"
            )


def peak_of_conversion(bag: Path, contract: Path, out: Path) -> int:
    """Runs the command and gives the most bytes it and its processes held at one time."""
    command = [sys.executable, "-m", "vla_training.data.conversion.convert", str(bag)]
    command += ["--contract", str(contract), "--out", str(out), "--task", "pick"]
    command += ["--vcodec", "h264", "--preset", "veryfast"]
    peak = 0
    with (out.parent / "log").open("w+") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
        while running.poll() is None:
            peak = max(peak, held(running.pid))
            time.sleep(SAMPLE_PERIOD)
        if running.returncode:
            log.seek(0)
            raise RuntimeError(log.read())
    return peak


def held(pid: int) -> int:
    """Bytes that a process and its children hold."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().uss
    except psutil.NoSuchProcess:  # one ended while we looked
        pass
    return total


if __name__ == "__main__":
    main()
