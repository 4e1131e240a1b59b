# SPDX-License-Identifier: Apache-2.0
"""``vla-convert`` against LeRobot's own ways of making the same dataset, and against the limit.

Bags of three 640 x 480 cameras at 30 Hz and joints at 100 Hz, raw and as JPEG, are converted to
AV1 and to H.264. Beside it, on the same pictures but ready in memory:

- ``add_frame`` with image files: what LeRobot does unless told otherwise;
- ``add_frame`` with streaming encoding, in one process;
- the encoder alone, on frames that are yuv already, a thread with its own encoder for each camera:
  nothing that encodes can be faster.

The lines "once started" leave out what a bag of one second takes, which is mostly the start of
the workers. Medians do not show what the first round pays for loading LeRobot: a command of its
own pays it once.

Run it with ``python benchmarks/convert.py``.
"""

import contextlib
import io
import logging
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import yaml
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets import LeRobotDataset
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vla_nodes.contract import load_contract
from vla_training.data.conversion import convert
from vla_training.data.schema import (
    ACTION,
    BAG_TIME,
    OUTCOME,
    STATE,
    SUBTASK,
    SUBTASK_INDEX,
    DatasetSchema,
    image_key,
)

CAMERAS = ("front", "left", "right")
WIDTH, HEIGHT, FPS = 640, 480, 30
JOINTS = [f"joint_{i}" for i in range(7)]
JOINT_RATE = 100
EPISODES, SECONDS = 4, 10  # bags, and seconds in each
FILES_SECONDS = 3  # of the slowest way
ROUNDS = 3
SHORT = "vla-convert, a second of bag"
SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
CODECS = {
    "AV1": RGBEncoderConfig(vcodec="libsvtav1", preset=12),
    "H.264": RGBEncoderConfig(vcodec="h264", preset="veryfast"),
}
STORE = get_typestore(Stores.ROS2_JAZZY)

Footage = list[tuple[np.ndarray, ...]]
Way = Callable[[RGBEncoderConfig, Path], int]  # makes a dataset and tells how many images


def main() -> None:
    """Prints medians, and ratios against each way."""
    logging.disable(logging.WARNING)
    print(f"{len(CAMERAS)} cameras of {WIDTH} x {HEIGHT} at {FPS} Hz, joints at {JOINT_RATE} Hz")
    print(f"{EPISODES} bags of {SECONDS} s; {platform.machine()}, medians of {ROUNDS} rounds\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        contracts = {kind: write_contract(folder, kind) for kind in ("raw", "jpeg")}
        bags = {kind: write_bags(folder, kind, EPISODES, SECONDS) for kind in contracts}
        second = write_bags(folder, "raw", 1, 1)
        footage = list(pictures(SECONDS, episode=0))
        short = FILES_SECONDS * FPS
        for codec, encoder in CODECS.items():
            ways: dict[str, Way] = {
                **{f"vla-convert, {k}": partial(run_convert, bags[k], contracts[k]) for k in bags},
                SHORT: partial(run_convert, second, contracts["raw"]),
                "(a) add_frame, image files": partial(run_add_frame, footage[:short], False),
                "(b) add_frame, streaming": partial(run_add_frame, footage, True),
                "(c) the encoder alone": encoder_alone(footage),
            }
            print_codec(codec, encoder, ways, folder, bags)


def print_codec(
    codec: str,
    encoder: RGBEncoderConfig,
    ways: dict[str, Way],
    folder: Path,
    bags: dict[str, list[Path]],
) -> None:
    """Measures every way in turn, round by round."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    images: dict[str, int] = {}
    for round_ in range(ROUNDS):
        for way, run in ways.items():
            out = folder / f"{codec} {way} {round_}".replace(" ", "_").replace(",", "")
            begin = time.perf_counter()
            images[way] = run(encoder, out)
            seconds[way].append(time.perf_counter() - begin)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    start, begun = medians.pop(SHORT), images.pop(SHORT)
    rates = {way: images[way] / took for way, took in medians.items()}
    for kind in bags:
        way = f"vla-convert, {kind}"
        rates[f"once started, {kind}"] = (images[way] - begun) / (medians[way] - start)
    files, streaming, limit = [rates[way] for way in ways if way.startswith("(")]
    print(f"{codec:32}  images/s    s/GB   x (a)   x (b)   of (c)")
    for way, rate in rates.items():
        kind = way.rpartition(" ")[2]
        total = EPISODES * SECONDS * FPS * len(CAMERAS)
        cost = f"{total / rate / (size_of(bags[kind]) * 1e-9):.1f}" if kind in bags else ""
        print(
            f"{way:32}{rate:10.1f}{cost:>8}"
            f"{rate / files:8.1f}{rate / streaming:8.2f}{100 * rate / limit:7.0f} %"
        )
    print()


# --- the footage ---------------------------------------------------------------------------------


def pictures(seconds: float, episode: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Frames of every camera: a scene that pans, with the noise of a sensor, (H, W, 3) uint8."""
    rng = np.random.default_rng(episode)
    scenes = [scene(rng) for _ in CAMERAS]
    noise = np.clip(rng.normal(0, 4, (16, HEIGHT, WIDTH, 3)), -20, 20).astype(np.int16)
    for k in range(round(seconds * FPS)):
        x, y = round(40 + 40 * np.sin(k / 20)), round(30 + 30 * np.cos(k / 17))
        yield tuple(
            np.clip(s[y : y + HEIGHT, x : x + WIDTH] + noise[(k + i) % 16], 0, 255).astype(np.uint8)
            for i, s in enumerate(scenes)
        )


def scene(rng: np.random.Generator) -> np.ndarray:
    """Blobs and edges, larger than a picture by what it pans."""
    coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (WIDTH + 100, HEIGHT + 80), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        corner = rng.integers(0, WIDTH, 2)
        size = rng.integers(10, 90, 2)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.rectangle(wide, tuple(corner.tolist()), tuple((corner + size).tolist()), colour, -1)
    return wide.astype(np.int16)


def write_contract(folder: Path, kind: str) -> Path:
    """The contract of the bags of one kind."""
    camera = {"width": WIDTH, "height": HEIGHT, "max_age": 0.2}
    if kind == "raw":
        camera |= {"type": "sensor_msgs/msg/Image", "encoding": "rgb8"}
    else:
        camera |= {"type": "sensor_msgs/msg/CompressedImage", "encoding": "jpeg"}
    document = {
        "robot": "bench",
        "fps": FPS,
        "timeline": "header",
        "reference": CAMERAS[0],
        "max_skew": 0.1,
        "cameras": {name: {"topic": f"/{name}", **camera} for name in CAMERAS},
        "states": {"arm": {"topic": "/joint_states", "joints": JOINTS, "max_age": 0.1}},
        "actions": {
            "arm": {
                "topic": "/command",
                "type": "trajectory_msgs/msg/JointTrajectory",
                "joints": JOINTS,
                "limits": {
                    "default": {"velocity": 10.0, "acceleration": 100.0},
                    "joints": {name: {"position": [-7.0, 7.0]} for name in JOINTS},
                },
                "recorded": {"topic": "/leader", "type": "sensor_msgs/msg/JointState"},
            }
        },
    }
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def write_bags(folder: Path, kind: str, episodes: int, seconds: float) -> list[Path]:
    """One bag for each episode."""
    paths = []
    for episode in range(episodes):
        path = folder / f"{kind}_{seconds}s_{episode}"
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            write_bag(writer, kind, episode, seconds)
        paths.append(path)
    return paths


def write_bag(writer: Writer, kind: str, episode: int, seconds: float) -> None:
    """Cameras, joints and leader in order of their stamps."""
    image_type = f"sensor_msgs/msg/{'Image' if kind == 'raw' else 'CompressedImage'}"
    types = dict.fromkeys(CAMERAS, image_type)
    types |= dict.fromkeys(("joint_states", "leader"), "sensor_msgs/msg/JointState")
    connections = {
        name: writer.add_connection(f"/{name}", type_, typestore=STORE)
        for name, type_ in types.items()
    }

    def write(name: str, stamp: int, message: Any) -> None:
        data = STORE.serialize_cdr(message, types[name])
        writer.write(connections[name], stamp + 5_000_000, data)

    joint_stamp = START - SECOND // 10
    for k, frames in enumerate(pictures(seconds, episode)):
        stamp = START + k * SECOND // FPS
        while joint_stamp <= stamp + SECOND // 20:
            for name in ("joint_states", "leader"):
                write(name, joint_stamp, joint_state(joint_stamp))
            joint_stamp += SECOND // JOINT_RATE
        for name, rgb in zip(CAMERAS, frames, strict=True):
            write(name, stamp, raw_image(stamp, rgb) if kind == "raw" else jpeg_image(stamp, rgb))


def header(stamp: int) -> Any:
    """A header of the typestore."""
    time_ = STORE.types["builtin_interfaces/msg/Time"](sec=stamp // SECOND, nanosec=stamp % SECOND)
    return STORE.types["std_msgs/msg/Header"](stamp=time_, frame_id="")


def joint_state(stamp: int) -> Any:
    """All joints on a sine."""
    values = np.sin((stamp - START) / SECOND + np.arange(len(JOINTS)))
    empty = np.zeros(0)
    return STORE.types["sensor_msgs/msg/JointState"](header(stamp), JOINTS, values, empty, empty)


def raw_image(stamp: int, rgb: np.ndarray) -> Any:
    """An ``Image``."""
    make = STORE.types["sensor_msgs/msg/Image"]
    return make(header(stamp), HEIGHT, WIDTH, "rgb8", 0, 3 * WIDTH, rgb.reshape(-1))


def jpeg_image(stamp: int, rgb: np.ndarray) -> Any:
    """A ``CompressedImage``."""
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return STORE.types["sensor_msgs/msg/CompressedImage"](header(stamp), "jpeg", data.reshape(-1))


def size_of(bags: list[Path]) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_size for bag in bags for file in bag.rglob("*") if file.is_file())


# --- the ways ------------------------------------------------------------------------------------


def run_convert(bags: list[Path], contract: Path, encoder: RGBEncoderConfig, out: Path) -> int:
    """The converter as its command line has it, without the start of the interpreter."""
    arguments = [*map(str, bags), "--contract", str(contract), "--out", str(out)]
    arguments += ["--vcodec", encoder.vcodec, "--preset", str(encoder.preset)]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = convert.main([*arguments, "--task", "pick"])
    if code:
        raise RuntimeError(output.getvalue())
    return LeRobotDataset(out.name, root=out).num_frames * len(CAMERAS)


def run_add_frame(footage: Footage, streaming: bool, encoder: RGBEncoderConfig, out: Path) -> int:
    """LeRobot's recording loop on one episode in memory."""
    schema = DatasetSchema.of(load_contract(out.parent / "raw.yaml"), FPS)
    dataset = LeRobotDataset.create(
        out.name,
        FPS,
        schema.features,
        root=out,
        rgb_encoder=encoder,
        streaming_encoding=streaming,
        # A frame that finds the queue full is dropped: make room for all.
        encoder_queue_maxsize=len(footage) + 1,
        image_writer_threads=0 if streaming else 4 * len(CAMERAS),
    )
    zeros = np.zeros(len(JOINTS), np.float32)
    for k, frames in enumerate(footage):
        dataset.add_frame(
            {
                STATE: zeros,
                ACTION: zeros,
                BAG_TIME: np.array([k]),
                SUBTASK_INDEX: np.array([-1]),
                OUTCOME: np.array([1]),
                SUBTASK: "",
                "task": "pick",
                **{image_key(name): rgb for name, rgb in zip(CAMERAS, frames, strict=True)},
            }
        )
    with contextlib.redirect_stderr(io.StringIO()):
        dataset.save_episode()
        dataset.finalize()
    return len(footage) * len(CAMERAS)


def encoder_alone(footage: Footage) -> Way:
    """Encodes what is yuv already, and keeps nothing."""
    frames = [
        [av.VideoFrame.from_ndarray(rgb[i]).reformat(format="yuv420p") for rgb in footage]
        for i in range(len(CAMERAS))
    ]

    def encode(camera: int, encoder: RGBEncoderConfig) -> None:
        context = av.CodecContext.create(encoder.vcodec, "w")
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context.time_base, context.framerate = Fraction(1, FPS), Fraction(FPS)
        context.options = encoder.get_codec_options(1, as_strings=True)
        for k, frame in enumerate(frames[camera]):
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            context.encode(frame)
        context.encode(None)

    def run(encoder: RGBEncoderConfig, _: Path) -> int:
        arguments = [(i, encoder) for i in range(len(CAMERAS))]
        threads = [threading.Thread(target=encode, args=a) for a in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(footage) * len(CAMERAS)

    return run


if __name__ == "__main__":
    main()
