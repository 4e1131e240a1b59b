# SPDX-License-Identifier: Apache-2.0
"""The parts of a small checkpoint besides its weights."""

import tokenizers
from tokenizers import models, pre_tokenizers

from vla_nodes.models.normalization import Normalization
from vla_nodes.models.robot_interface import RobotInterface
from vla_nodes.models.scaling import Scaling
from vla_nodes.models.tokenizer import Tokenizer

NAMES = ("shoulder", "elbow", "gripper")


def make_tokenizer() -> Tokenizer:
    """Of bytes."""
    alphabet = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(alphabet[:3])
    return Tokenizer(tokenizer)


def make_normalization() -> Normalization:
    """Of three joints."""
    return Normalization(
        Scaling(NAMES, "quantile", (-1.5, -0.25, 0.0), (1.5, 2.0, 0.125)),
        Scaling(NAMES, "quantile", (-1.0, -0.5, 0.0), (1.0, 1.75, 0.1)),
    )


def make_robot() -> RobotInterface:
    """Of two cameras and three joints."""
    return RobotInterface(("wrist", "top"), NAMES, NAMES, 12.5, ("reach", "grasp"), True)
