# SPDX-License-Identifier: Apache-2.0
"""What it costs to put a 640 x 480 picture into a sensor_msgs/Image and to get it out again.

Compares ``fill_image`` and ``decode_image`` with the ways that tutorials show and with
cv_bridge: the real one where it imports, otherwise the same numpy steps. A message is
filled again and again, as a publisher would. rclpy checks every byte of what is assigned
only when asked to (``ROS_PYTHON_CHECK_FIELDS=1``), so the obvious way is measured both ways.

Run it with ``python benchmarks/image_codec.py``.
"""

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image

from vla_nodes.observation.codecs import decode_image, fill_image

HEIGHT, WIDTH = 480, 640
SECONDS = 1.0  # per way, and never fewer than five runs

Rgb = npt.NDArray[np.uint8]


def main() -> None:
    """Prints medians, and each as a multiple of ours."""
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    message, checked = Image(), Image(check_fields=True)
    fill_image(message, rgb)
    bridge_name, to_message, to_array = cv_bridge_ways()
    print(f"{WIDTH} x {HEIGHT} rgb8, {platform.machine()}, Python {platform.python_version()}\n")
    print_table(
        "making a message",
        {
            "fill_image": lambda: fill_image(message, rgb),
            bridge_name: lambda: to_message(rgb),
            "data = rgb.tobytes()": lambda: set_data(message, rgb.tobytes()),
            "data = rgb.tobytes(), checked": lambda: set_data(checked, rgb.tobytes()),
            "data = rgb.flatten().tolist()": lambda: set_data(message, rgb.flatten().tolist()),
        },
    )
    print_table(
        "reading a message",
        {
            "decode_image": lambda: decode_image(message, "rgb8"),
            bridge_name: lambda: to_array(message),
            "np.array(data)": lambda: np.array(message.data).reshape(HEIGHT, WIDTH, 3),
            "np.array(list(data))": lambda: np.array(list(message.data), np.uint8).reshape(
                HEIGHT, WIDTH, 3
            ),
        },
    )


def set_data(message: Image, data: object) -> None:
    """Assigns a message's bytes the obvious way."""
    message.height, message.width, message.step = HEIGHT, WIDTH, 3 * WIDTH
    message.encoding = "rgb8"
    message.data = data


def cv_bridge_ways() -> tuple[str, Callable[[Rgb], Image], Callable[[Image], Rgb]]:
    """cv_bridge's conversions both ways, and what to call them."""
    try:
        from cv_bridge import CvBridge
    except ImportError:  # not there, or built against another numpy
        return "cv_bridge's steps", bridge_to_message, bridge_to_array
    bridge = CvBridge()
    return (
        "cv_bridge",
        lambda rgb: bridge.cv2_to_imgmsg(rgb, "rgb8"),
        lambda message: bridge.imgmsg_to_cv2(message, "rgb8"),
    )


def bridge_to_message(rgb: Rgb) -> Image:
    """Extends the message's empty array by a copy of the picture's bytes."""
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data.frombytes(rgb.tobytes())
    return message


def bridge_to_array(message: Image) -> Rgb:
    """Lays an array over the message's bytes."""
    return np.ndarray((message.height, message.width, 3), np.uint8, message.data)


def print_table(title: str, ways: dict[str, Callable[[], object]]) -> None:
    """Measures every way and prints it beside the first."""
    medians = {name: median_ms(way) for name, way in ways.items()}
    ours = next(iter(medians.values()))
    print(f"{title:<34}{'median ms':>12}{'times ours':>12}")
    for name, milliseconds in medians.items():
        print(f"{name:<34}{milliseconds:>12.4f}{milliseconds / ours:>12.1f}")
    print()


def median_ms(way: Callable[[], object]) -> float:
    """Median duration of a call, ms."""
    way()
    durations: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(durations) < 5:
        start = time.perf_counter()
        way()
        durations.append(1e3 * (time.perf_counter() - start))
    return statistics.median(durations)


if __name__ == "__main__":
    main()
