# SPDX-License-Identifier: Apache-2.0
"""Hierarchical pi0.5 as a policy: observations and words in, subtasks and chunks out."""

import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_nodes.contract import Contract, StateSource
from vla_nodes.inference.decided import delay, unexecuted
from vla_nodes.inference.energy_check import EnergyCheck, load_energy, unchecked
from vla_nodes.inference.energy_correction import Correction
from vla_nodes.inference.engine import DTYPES, EngineOptions, Pi05Engine
from vla_nodes.inference.options import PolicyOptions
from vla_nodes.inference.pi05_robot import (
    check_energy,
    check_is_here,
    check_options,
    fit_normalization,
    fit_robot,
)
from vla_nodes.inference.policy import ActionPlan, PolicyError, Verdict
from vla_nodes.inference.rehearsal import blank_observation, check_device
from vla_nodes.models.checkpoint import Checkpoint, load_model, read_checkpoint
from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.prompts import actor_prompt, planner_prompt, state_bins
from vla_nodes.observation.observation import Observation

MAX_SUBTASK = 200  # characters
LATENCIES = 10  # chunks whose slowest foretells how long the next will take


class Pi05Policy:
    """Meets ``vla_nodes.inference.Policy``.

    The pictures of an observation are encoded once, for planner and actor. In real-time
    chunking every chunk continues the one before that was not rejected.

    Args:
        contract: Of the robot.
        checkpoint: Folder of a pi0.5, our own, LeRobot's or openpi's.
        device: Where to compute.
        options: How.

    Raises:
        PolicyError: The checkpoint or that of the energy model is damaged, is for another robot,
            or was not trained for what the options ask.
    """

    extra_states: Sequence[StateSource] = ()

    def __init__(
        self, contract: Contract, checkpoint: str, device: str, options: PolicyOptions
    ) -> None:
        try:
            check_is_here(Path(checkpoint))
            check_device(device)
            loaded = read_checkpoint(checkpoint)
            robot = fit_robot(loaded.robot, contract)
            check_options(loaded.config, robot, options)
            check_energy(options)
            self._normalization = fit_normalization(loaded.normalization, contract)
            energy = self._load_energy(contract, loaded, options)
            model = load_model(loaded, DTYPES[options.dtype], device)
        except CheckpointError as error:
            raise PolicyError(str(error)) from error
        except RuntimeError as error:  # out of memory, for one
            raise PolicyError(f"the policy cannot be loaded: {error!r:.300}") from error
        self._config, self._tokenizer, self._options = loaded.config, loaded.tokenizer, options
        self._contract, self._robot, self._device = contract, robot, device
        self._positive = True if robot.advantage else None
        self._known = contract.subtasks or robot.subtasks
        try:
            self._known_tokens = [self._tokenizer.encode(text) for text in self._known]
        except ValueError as error:
            raise PolicyError(f"a known subtask cannot be used: {error}") from error
        self._check_subtasks()
        self._durations: deque[float] = deque(maxlen=LATENCIES)
        self.reset()
        try:
            self._engine = Pi05Engine(model, _engine_options(loaded, device, options), energy)
            self._warm()
        except PolicyError:
            raise
        except (RuntimeError, ValueError, FloatingPointError) as error:
            raise PolicyError(f"the policy does not run: {error!r:.300}") from error

    def reset(self) -> None:
        """Forget the task, the observation, and the chunk that the next would continue."""
        self._task = ""
        self._seen: tuple[int, Tensor, float] | None = None
        self._last: tuple[int, NDArray[np.float32]] | None = None

    def plan_subtask(self, observation: Observation, task: str) -> str:
        """The subtask that the language model writes, or finds most probable.

        Where the planner is to choose and no subtasks are known, the task is the subtask.
        """
        self._task = task
        choosing = self._options.planner == "known"
        if choosing and not self._known:
            return task
        features = self._features(observation)
        prompt = self._tokens(planner_prompt(task, self._bins(observation)))
        if not choosing:
            return _line(self._tokenizer.decode(self._engine.plan(features, prompt)))
        scores = self._engine.score(features, prompt, self._known_tokens)
        if not bool(scores.isfinite().all()):
            raise RuntimeError(f"the planner gave probabilities that are no numbers: {scores}")
        return self._known[int(scores.argmax())]

    def act(self, observation: Observation, subtask: str) -> ActionPlan:
        """The first of the chunks that are drawn, or the one that the energy check takes."""
        started = time.monotonic()
        features, bins = self._features(observation), self._bins(observation)
        prompt = self._tokens(actor_prompt(subtask, bins, self._positive))
        guided = self._options.guidance > 1.0
        decided, delayed = self._decided(observation, started)
        drawn = self._engine.act(
            features,
            prompt,
            decided=decided,
            delay=delayed,
            unconditional=self._tokens(actor_prompt(subtask, bins)) if guided else None,
            guidance=self._options.guidance,
        )
        if self._check is None:
            choice = unchecked(drawn)
        else:
            choice = self._check.choose(self._engine, drawn, self._task, delayed or 0)
        if choice.verdict != Verdict.REJECTED:  # the robot goes on with the one before
            self._last = (observation.stamp, choice.chunk)
        self._durations.append(time.monotonic() - started)
        joints = len(self._contract.action_names)
        return ActionPlan(
            self._normalization.action.restore(choice.chunk[:, :joints]),
            energy=choice.energy,
            threshold=choice.threshold,
            verdict=choice.verdict,
            resamples=choice.resamples,
        )

    def _load_energy(
        self, contract: Contract, policy: Checkpoint, options: PolicyOptions
    ) -> EnergyModel | None:
        """Sets up the check; its model is the engine's business."""
        self._check: EnergyCheck | None = None
        if not options.energy:
            return None
        folder, chunk = Path(options.energy), policy.config.chunk
        model, calibration = load_energy(folder, policy.folder, contract, chunk)
        correction = None
        if options.correction_steps:
            correction = Correction.of_robot(
                contract,
                self._normalization.action,
                options.correction_steps,
                options.correction_rate,
            )
        self._check = EnergyCheck(calibration, options.resamples, correction)
        return model

    def _features(self, observation: Observation) -> Tensor:
        """Of the pictures, encoded at the first call for an observation."""
        if self._seen is None or self._seen[0] != observation.stamp:
            began = time.monotonic()
            pictures = [
                torch.tensor(observation.images[name], device=self._device).permute(2, 0, 1)[None]
                for name in self._robot.cameras
            ]
            fitted = [fit_pictures(picture, self._config.image_size) for picture in pictures]
            self._seen = (observation.stamp, self._engine.encode(torch.cat(fitted)), began)
        return self._seen[1]

    def _bins(self, observation: Observation) -> NDArray[np.int64]:
        state = self._normalization.state.normalise(observation.state)
        if self._config.pad_state:
            state = np.pad(state, (0, self._config.max_state_dim - len(state)))
        return state_bins(state)

    def _tokens(self, prompt: str) -> list[int]:
        try:
            tokens = [self._tokenizer.bos_id, *self._tokenizer.encode(prompt)]
        except ValueError as error:
            raise PolicyError(str(error)) from error
        if len(tokens) > self._config.max_prompt_tokens:
            raise PolicyError(
                f"the prompt has {len(tokens)} tokens, the model takes "
                f"{self._config.max_prompt_tokens}; say it in fewer words: {prompt[:80]!r}"
            )
        return tokens

    def _decided(
        self, observation: Observation, started: float
    ) -> tuple[Tensor | None, int | None]:
        """The unexecuted end of the last chunk, and how many of its actions will be past."""
        if self._options.real_time == "off" or self._last is None or self._seen is None:
            return None, None
        stamp, chunk = self._last
        dt = self._contract.dt
        left = unexecuted(chunk, (observation.stamp - stamp) * 1e-9 / dt)
        if not len(left):
            return None, None
        age = observation.ages.get(self._contract.reference, 0.0)
        planned = max(started - self._seen[2], 0.0)  # s that the planner has taken meanwhile
        latency = age + planned + max(self._durations, default=0.0)
        past = min(delay(latency, dt), len(left))
        if self._options.real_time == "trained":
            past = min(past, self._config.max_delay)
        return torch.from_numpy(left), past

    def _check_subtasks(self) -> None:
        most = self._config.max_subtask_tokens - 1  # one ends it
        for text, tokens in zip(self._known, self._known_tokens, strict=True):
            if not 0 < len(tokens) <= most:
                raise PolicyError(
                    f"subtask {text[:80]!r} has {len(tokens)} tokens, expected 1 to {most}"
                )

    def _warm(self) -> None:
        """Have the engine ready for every length of prompt that is to be expected."""
        options = self._options
        lengths = self._prompt_lengths()
        static = options.compile or torch.device(self._device).type == "cuda"
        self._engine.warm(
            len(self._robot.cameras),
            range(lengths[0], lengths[-1] + 1) if static else lengths[-1:],
            decided=options.real_time != "off",
            unconditional=options.guidance > 1.0,
            texts=self._known_tokens if options.planner == "known" else (),
        )
        # The first chunk's latency is the only one known when the second is due.
        text = next(iter((*self._known, *self._contract.tasks)), "")
        self.act(blank_observation(self._contract), text)
        self.reset()

    def _prompt_lengths(self) -> list[int]:
        """Of the prompts that the contract's words make; up to the limit where any may come."""
        count = self._config.max_state_dim if self._config.pad_state else 0
        count = max(count, len(self._contract.state_names))
        lengths = [
            len(self._tokenizer.encode(make(text, [number] * count))) + 1
            for text in (*self._contract.tasks, *self._known, "")
            for make in (planner_prompt, partial(actor_prompt, positive=self._positive))
            for number in (0, 255)
        ]
        most = self._config.max_prompt_tokens
        if not self._contract.tasks or self._options.planner == "free":
            lengths.append(most)
        return sorted(min(length, most) for length in lengths)


def _engine_options(checkpoint: Checkpoint, device: str, options: PolicyOptions) -> EngineOptions:
    return EngineOptions(
        device=device,
        dtype=options.dtype,
        candidates=options.candidates,
        steps=options.steps or None,
        compile=options.compile,
        real_time="guided" if options.real_time == "guided" else "trained",
        end_token=checkpoint.subtask_end,
    )


def _line(text: str) -> str:
    """The first line, printable; behind it a planner with action tokens writes its actions."""
    line = text.split("\n")[0]
    return "".join(c for c in line if c.isprintable()).strip()[:MAX_SUBTASK]
