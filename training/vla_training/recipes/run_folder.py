# SPDX-License-Identifier: Apache-2.0
"""The folder of a training: one training each, never overwritten.

It holds ``settings.yaml``, ``state/``, ``logs/`` and what the recipe makes.
"""

from pathlib import Path
from typing import Any

from accelerate import PartialState

from vla_training.recipes.errors import TrainingError
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.run_state import newest_state
from vla_training.recipes.settings_file import (
    SETTINGS,
    defaults,
    flat,
    read_settings,
    write_settings,
)
from vla_training.recipes.training_loop import Ended

_FREE = {
    *("out", "dataset", "init", "tokenizer", "fast", "workers"),
    *("save_every", "keep", "log_every", "wandb"),
    *("questions", "pictures", "siglip", "gemma"),
    *("policy", "contexts"),
}
"""Settings that may be others when training is resumed: they do not change what comes out, or
say where things lie now."""


def claim(out: Path, settings: Any, *, resume: bool) -> None:
    """Takes a folder for a training, and writes the settings of a new one there.

    What is said otherwise on resuming holds for that once: only later is it found out whether
    the data, for one, are the same.

    Raises:
        TrainingError: It holds another training or something else, or there is none to resume.
        OSError: The disk refused.
    """
    if resume:
        _refuse_others(out, settings)
        return
    state = newest_state(out / "state")
    if state:
        raise TrainingError(
            f"{out} holds a training already, up to {state.name}; --resume goes on with it, "
            "another --out begins a new one"
        )
    if out.exists() and not (out / SETTINGS).exists() and any(out.iterdir()):
        raise TrainingError(f"{out} holds something else than a training; name another --out")
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        write_settings(out, settings)


def stopped(out: Path, ended: Ended, loop: LoopSettings) -> str:
    """What to say of a training that was interrupted."""
    return f"{out}: stopped after step {ended.step} of {loop.steps}; --resume goes on"


def _refuse_others(out: Path, settings: Any) -> None:
    # What is not in the file was no option yet when the training was begun.
    before = {**defaults(type(settings)), **read_settings(out / SETTINGS)}
    now = flat(settings)
    for name in sorted((before.keys() | now.keys()) - _FREE):
        if before.get(name) != now.get(name):
            raise TrainingError(
                f"{out} was begun with {name} {before.get(name)!r:.50}, not "
                f"{now.get(name)!r:.50}; a training is resumed with its own settings"
            )
