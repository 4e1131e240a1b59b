# SPDX-License-Identifier: Apache-2.0
"""``vla-eval policy``: from arguments to tables, report and plots."""

from dataclasses import asdict

import torch

from vla_nodes.models.checkpoint import load_model, read_checkpoint
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import read_info
from vla_training.evaluation.chosen_episodes import chosen_episodes
from vla_training.evaluation.policy_arguments import PolicyArguments
from vla_training.evaluation.policy_evaluation import evaluate_policy, open_recording
from vla_training.evaluation.policy_report import as_json, write_report
from vla_training.evaluation.policy_tables import print_report


def evaluate(arguments: PolicyArguments) -> None:
    """Evaluates a policy; prints, and writes where that is asked for.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DataError: The dataset cannot be used, or does not fit, or a file cannot be written.
        TrainingError: A text has more tokens than the model takes.
    """
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device is cuda, but PyTorch finds no such device here")
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
