# SPDX-License-Identifier: Apache-2.0
"""``vla-plot value``: from arguments to pictures and videos."""

import sys

from tqdm import tqdm

from vla_nodes.models.value_checkpoint import read_value_checkpoint
from vla_training.data.errors import DataError
from vla_training.data.loading.training_set import TrainingSet
from vla_training.evaluation.value_arguments import ValuePlotArguments
from vla_training.evaluation.value_episodes import episode_values
from vla_training.evaluation.value_evaluation import (
    choose_episodes,
    open_labelled,
    trained_interface,
)
from vla_training.evaluation.value_pages import plot_episode, plot_overview
from vla_training.evaluation.value_predictions import predict_values
from vla_training.evaluation.value_video import write_video
from vla_training.options import chosen_device


def draw(arguments: ValuePlotArguments) -> None:
    """Draws the values of episodes; tells what it wrote.

    Raises:
        CheckpointError: The checkpoint cannot be used, or gives values that are not finite.
        DataError: The dataset cannot be used or does not fit, or a file cannot be written.
        TrainingError: The settings beside the checkpoint cannot be read.
    """
    device = chosen_device(arguments.device)
    checkpoint = read_value_checkpoint(arguments.checkpoint)
    cameras = trained_interface(checkpoint).cameras
    camera = arguments.camera or cameras[0]
    if camera not in cameras:
        raise DataError(f"--camera is {camera!r:.60}, expected one of {', '.join(cameras)}")
    dataset = open_labelled(checkpoint, arguments.dataset)
    episodes = choose_episodes(arguments.episodes, dataset.count, checkpoint)
    items = TrainingSet(dataset.root, 1, episodes, cameras=cameras)
    predictions = predict_values(
        checkpoint,
        dataset.root,
        episodes,
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        device=device,
        cache=arguments.cache,
    )
    if dataset.fault:
        print(f"no returns are drawn: {dataset.fault}")
    drawn = episode_values(dataset, items, predictions)
    out = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        for one in tqdm(drawn, unit="episode", leave=False, disable=not sys.stderr.isatty()):
            name = f"episode_{one.episode:06d}"
            plot_episode(out / f"{name}.png", one, cameras, arguments.pictures)
            if arguments.video:
                write_video(out / f"{name}.mp4", one, camera)
        plot_overview(out / "overview.png", drawn)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    videos = " and a video" if arguments.video else ""
    print(f"{out}: overview.png, and a picture{videos} of {len(drawn)} episodes")
