# SPDX-License-Identifier: Apache-2.0
"""The bounds that a contract sets for recorded data."""

from vla_nodes.contract.document import Entry
from vla_nodes.contract.schema import Checks
from vla_nodes.contract.streams import SECONDS
from vla_nodes.contract.values import integer, number, section

_SHARE = number("share of the pictures", least=0, most=1)

_CHECKS = {
    "min_joint_rate": number("Hz", above=0, most=10_000),
    "max_camera_gap": SECONDS,
    "max_skew": SECONDS,
    "max_delay": SECONDS,
    "max_joint_jump": number("times the joint's velocity limit", above=0),
    "frozen_frames": integer("pictures", 2, 100_000),
    "duplicate_share": _SHARE,
    "black_level": number("mean brightness", least=0, most=255),
    "black_share": _SHARE,
    "min_psnr": number("dB", least=0, most=100),
}


def read_checks(entry: Entry) -> Checks:
    """Reads the section ``checks``.

    Raises:
        ContractError: If it breaks a rule.
    """
    return Checks(**section(entry, {}, _CHECKS))
