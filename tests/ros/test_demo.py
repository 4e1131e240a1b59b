# SPDX-License-Identifier: Apache-2.0
"""The demo, as a user starts it."""

import subprocess
import sys
from pathlib import Path

import av
import cv2


def run_demo(output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vla_nodes.nodes.demo", "--output", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=110)


def test_the_demo_leaves_a_video_and_a_plot(domain: int, tmp_path: Path) -> None:
    del domain  # Only its environment is needed.
    done = run_demo(tmp_path, "--cubes", "1", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clear the table: success" in done.stdout
    with av.open(str(tmp_path / "episode.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) > 15
    # It moves, and it shows something.
    assert (frames[0].astype(int) - frames[-5]).std() > 5
    plot = cv2.imread(str(tmp_path / "joints.png"))
    assert plot.shape == (1500, 1200, 3)
    assert plot.std() > 20


def test_a_demo_that_does_not_succeed_says_so_with_its_exit_status(
    domain: int, tmp_path: Path
) -> None:
    del domain
    done = run_demo(tmp_path, "--cubes", "1", "--time-limit", "1.0")
    assert done.returncode == 1
    assert "clear the table: timed out" in done.stdout
