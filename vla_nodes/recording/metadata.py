# SPDX-License-Identifier: Apache-2.0
"""``metadata.yaml`` of a rosbag2 folder, version 9."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import yaml

from vla_nodes.recording.mcap_file import Channel
from vla_nodes.recording.report import Ending, Facts, Report, Tally

VERSION = 9
ROS_DISTRO = "jazzy"  # whose definitions are in the bag


class _Text(str):
    """Text that is written in quotes; other readers than PyYAML take 1e5 for a number."""


class _Dumper(yaml.SafeDumper):
    """Knows ``_Text``."""


_Dumper.add_representer(
    _Text,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'),
)


def custom_data(facts: Facts, ending: Ending | None) -> dict[str, str]:
    """What the user may want to know of an episode; ``ending`` is None while it goes on."""
    return {
        "task": facts.task,
        "outcome": ending.outcome if ending else "unknown",
        "reason": ending.reason if ending else "",
        "contract": facts.contract,
        "contract_digest": facts.contract_digest,
        "git": facts.git,
        "started": _iso(facts.started),
        "ended": _iso(ending.ended) if ending else "",
    }


def metadata_yaml(
    report: Report,
    channels: Sequence[Channel],
    files: Sequence[tuple[str, Tally]],
    custom: dict[str, str],
) -> str:
    """The text of the file.

    Args:
        report: Of the episode.
        channels: Topics, in the order of the report's.
        files: Name and content of each, in their order.
        custom: The user's own entries.
    """
    first, last = report.span
    information = {
        "version": VERSION,
        "storage_identifier": "mcap",
        **_times(first, last),
        "message_count": report.messages,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": channel.topic,
                    "type": channel.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [],
                    "type_description_hash": channel.definition.digest,
                },
                "message_count": topic.tally.messages,
            }
            for channel, topic in zip(channels, report.topics, strict=True)
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [name for name, _ in files],
        "files": [
            {"path": name, **_times(tally.first, tally.last), "message_count": tally.messages}
            for name, tally in files
        ],
        "custom_data": {key: _Text(text) for key, text in custom.items()},
        "ros_distro": ROS_DISTRO,
    }
    document = {"rosbag2_bagfile_information": information}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 30)


def _times(first: int, last: int) -> dict[str, Any]:
    return {
        "duration": {"nanoseconds": last - first},
        "starting_time": {"nanoseconds_since_epoch": first},
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
