# SPDX-License-Identifier: Apache-2.0
"""The recorder's parameters."""

from dataclasses import dataclass

from vla_nodes.nodes.parameters import parameter


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder."""

    contract: str = parameter("", "Path of the robot's contract, YAML")
    root: str = parameter("", "Folder that gets a folder for every episode; it must exist")
    auto: bool = parameter(True, "Record every goal of the graph, from its beginning to its result")
    compression: str = parameter(
        "none", "Of the files; zstd costs CPU time", choices=("none", "zstd")
    )
    split_size_mb: int = parameter(
        0,
        "Megabytes after which an episode goes on in another file; 0: one file",
        minimum=0,
        maximum=1_000_000,
    )
    queue_mb: int = parameter(
        256,
        "Megabytes that may wait for the disk; what comes above that is dropped and counted",
        minimum=1,
        maximum=65_536,
    )
    min_free_mb: int = parameter(
        1000, "Megabytes that must stay free on the disk", minimum=0, maximum=1_000_000
    )
