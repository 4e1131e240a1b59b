# SPDX-License-Identifier: Apache-2.0
"""``vla-eval policy``: from arguments to tables, report and plots."""

from dataclasses import asdict

import torch

from vla_nodes.models.checkpoint import load_model, read_checkpoint
from vla_training.data.labels.metadata import read_info
from vla_training.evaluation.chosen_episodes import chosen_episodes
from vla_training.evaluation.policy_arguments import PolicyArguments
from vla_training.evaluation.policy_evaluation import evaluate_policy, open_recording
from vla_training.evaluation.policy_report import as_json, write_report
from vla_training.evaluation.policy_tables import print_report
from vla_training.options import chosen_device


def evaluate(arguments: PolicyArguments) -> None:
    """Evaluates a policy; prints, and writes where that is asked for.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DataError: The dataset cannot be used, or does not fit, or a text has more tokens than the
            model takes, or a file cannot be written.
    """
    device = chosen_device(arguments.device)
    checkpoint = read_checkpoint(arguments.checkpoint)
    count = read_info(arguments.dataset.resolve())["total_episodes"]
    episodes = chosen_episodes(arguments.episodes, count, checkpoint.folder)
    recording = open_recording(checkpoint, arguments.dataset, episodes, arguments.stride)
    results = evaluate_policy(
        checkpoint,
        load_model(checkpoint, torch.bfloat16 if arguments.bf16 else torch.float32, device),
        recording,
        samples=arguments.samples,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
    )
    print_report(recording, results)
    if arguments.out is not None:
        settings = {
            **{name: value for name, value in asdict(arguments).items() if name != "out"},
            "checkpoint": str(checkpoint.folder),
            "dataset": str(arguments.dataset),
            "episodes": episodes,
            "device": device,
        }
        write_report(arguments.out, recording, results, as_json(recording, results, settings))
        print(f"written: {arguments.out}")
