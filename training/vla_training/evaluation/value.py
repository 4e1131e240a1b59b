# SPDX-License-Identifier: Apache-2.0
"""``vla-eval value``: from arguments to tables, report and plots."""

from dataclasses import asdict

import torch

from vla_nodes.models.value_checkpoint import read_value_checkpoint
from vla_training.data.errors import DataError
from vla_training.evaluation.value_arguments import ValueArguments
from vla_training.evaluation.value_evaluation import (
    choose_episodes,
    evaluate_values,
    open_labelled,
    stored_split,
)
from vla_training.evaluation.value_predictions import predict_values
from vla_training.evaluation.value_report import as_json, write_report
from vla_training.evaluation.value_tables import print_report
from vla_training.options import chosen_device
from vla_training.recipes.settings_file import SETTINGS, read_settings


def evaluate(arguments: ValueArguments) -> None:
    """Evaluates a value function; prints, and writes where that is asked for.

    Raises:
        CheckpointError: The checkpoint cannot be used, or gives values that are not finite.
        DataError: The dataset cannot be used, or does not fit, or a file cannot be written.
        TrainingError: The settings beside the checkpoint cannot be read.
    """
    device = chosen_device(arguments.device)
    checkpoint = read_value_checkpoint(arguments.checkpoint)
    dataset = open_labelled(checkpoint, arguments.dataset)
    if dataset.fault:
        raise DataError(dataset.fault)
    split = stored_split(checkpoint, dataset.count)
    episodes = choose_episodes(arguments.episodes, dataset.count, checkpoint)
    predictions = predict_values(
        checkpoint,
        dataset.root,
        episodes,
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        device=device,
        cache=arguments.cache,
        dtype=torch.bfloat16 if arguments.bf16 else torch.float32,
    )
    results = evaluate_values(dataset, split, predictions)
    print_report(results)
    if arguments.out is not None:
        beside = checkpoint.folder.resolve().parent / SETTINGS
        told = {
            **{name: value for name, value in asdict(arguments).items() if name != "out"},
            "checkpoint": str(checkpoint.folder),
            "dataset": str(arguments.dataset),
            "episodes": episodes,
            "cache": str(arguments.cache) if arguments.cache else None,
            "device": device,
            "trained_on": read_settings(beside).get("dataset") if beside.is_file() else None,
            "pictures": predictions.pictures,
            "seconds": predictions.seconds,
        }
        write_report(arguments.out, dataset, results, as_json(dataset, results, told))
        print(f"written: {arguments.out}")
