# SPDX-License-Identifier: Apache-2.0
"""pi0.5 for a robot: the same numbers as ``Pi05``, sooner.

Pictures are encoded once and serve planner and actor. Lengths are exact, or padded to a few
where shapes must not change: compiled, or captured as CUDA graphs. No words: tokens go in and
come out. With an energy model, chunks come with their energies.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from vla_nodes.inference.actor import Actor
from vla_nodes.inference.cuda_graphs import CudaGraphs, Directly
from vla_nodes.inference.drawn import Drawn, Prefix
from vla_nodes.inference.engine_inputs import (
    Inputs,
    check_chunks,
    check_pictures,
    decided_actions,
    pad_tokens,
)
from vla_nodes.inference.engine_options import DTYPES, EngineOptions
from vla_nodes.inference.expert import Expert, Modulations
from vla_nodes.inference.language import Language
from vla_nodes.inference.planner import Planner
from vla_nodes.inference.taking_over import take_over, take_over_energy
from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.pi05 import Pi05

__all__ = ["DTYPES", "Drawn", "EngineOptions", "Pi05Engine"]


class Pi05Engine:
    """Runs a model; one call at a time.

    Args:
        model: Is taken over: converted, moved, and its weights merged, in place. It still runs
            plainly, on the same weights.
        options: How.
        energy: Judges the chunks; is taken over, too. Computes in float32.

    Raises:
        ValueError: The end token is not in the model's vocabulary, or the energy model is of
            another policy.
    """

    def __init__(
        self, model: Pi05, options: EngineOptions, energy: EnergyModel | None = None
    ) -> None:
        if not 0 <= options.end_token < model.config.vocabulary:
            raise ValueError(
                f"end_token {options.end_token}, expected 0 to {model.config.vocabulary - 1}"
            )
        self.config, self.options = model.config, options
        device, dtype = torch.device(options.device), DTYPES[options.dtype]
        steps = options.steps or model.config.steps
        model.eval().requires_grad_(False)
        modulations = Modulations(model, steps, dtype, device)
        self._model = take_over(model, device, dtype)
        if energy is not None:
            take_over_energy(energy, model.config, device)
        self._dtype = dtype
        self._run = CudaGraphs(device) if options.captures else Directly()
        self._inputs = Inputs(model.config, device, options.multiple, options.seed)
        language = Language(model, compile_pieces=options.compile)
        self._planner = Planner(language)
        self._actor = Actor(
            language,
            Expert(model, compile_pieces=options.compile),
            modulations,
            steps,
            options.hidden,
            options.real_time,
            options.max_guidance,
            energy,
        )
        self._see = torch.compile(self._encode) if options.compile else self._encode

    def _encode(self, pictures: Tensor) -> tuple[Tensor, ...]:
        tokens = self._model.vision(pixel_values=pictures.to(self._dtype)).last_hidden_state
        return (self._model.projector(tokens).flatten(0, 1),)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Encodes the pictures of cameras that are there; absent ones are left out.

        Args:
            pictures: (V, 3, S, S) float32 in [-1, 1].

        Returns:
            (V·P, W), P tokens a picture.

        Raises:
            ValueError: Another shape.
        """
        check_pictures(pictures, self.config)
        pixels = self._inputs.there(pictures.float())
        (features,) = self._run(("encode", len(pictures)), self._see, pixels)
        return features

    @torch.no_grad()
    def act(
        self,
        features: Tensor,
        prompt: Sequence[int],
        *,
        noise: Tensor | None = None,
        decided: Tensor | None = None,
        delay: int | None = None,
        unconditional: Sequence[int] | None = None,
        guidance: float = 1.0,
    ) -> Drawn:
        """Draws chunks of actions.

        Args:
            features: From ``encode``.
            prompt: The actor's, its first token included.
            noise: (K, T, A) float32 to begin with; drawn where None.
            decided: (m, A) the unexecuted end of the old chunk, normalised and padded, whose
                first row coincides with the new chunk's first.
            delay: Of these, the actions that will have been executed when the new chunk takes
                over; None for all. "trained" takes these as given and disregards the others;
                "guided" holds on to these, and to the others less and less.
            unconditional: A prompt that asks for less: the velocity is this prompt's, plus
                ``guidance`` times what the other adds (https://arxiv.org/abs/2207.12598).
            guidance: Above 1 for more than the prompt alone.

        Raises:
            ValueError: A shape or token does not fit the model, or the delay its training.
        """
        prompts = [prompt] if unconditional is None else [prompt, unconditional]
        inputs, padded = self._inputs.prompts(features, prompts)
        noise = self._inputs.noise(noise, self.options.candidates)
        trained = self.options.real_time == "trained"
        old = (
            () if decided is None else decided_actions(decided, delay, self.config, trained=trained)
        )
        given = tuple(map(self._inputs.there, (torch.tensor(guidance), *old)))
        key = ("act", len(features), *inputs[1].shape, len(noise), bool(old), padded)
        function = functools.partial(self._actor, padded=padded)
        actions, *rest = self._run(key, function, *inputs, noise, *given)
        hidden = rest.pop()[: len(features) + len(prompt)] if self.options.hidden else None
        if not rest:
            return Drawn(actions, hidden)
        energies, context, cache, ends = rest
        prefix = Prefix(key[1:], (context, cache, ends), given, padded)
        return Drawn(actions, hidden, energies, prefix)

    @torch.no_grad()
    def again(self, drawn: Drawn, noise: Tensor | None = None) -> Drawn:
        """Draws other chunks for the same observation, without the language model's work.

        Args:
            drawn: From ``act`` or ``again``, of an engine with an energy model.
            noise: As for ``act``; as many as before where None.

        Raises:
            ValueError: There is no energy model, or a shape does not fit.
        """
        if (prefix := drawn.prefix) is None:
            raise ValueError("chunks are drawn again only with an energy model")
        noise = self._inputs.noise(noise, len(drawn.actions))
        function = functools.partial(self._actor.again, padded=prefix.padded)
        key = ("again", prefix.key, len(noise))
        actions, energies = self._run(key, function, *prefix.kept, noise, *prefix.given)
        return Drawn(actions, drawn.hidden, energies, prefix)

    @torch.no_grad()
    def judge(self, features: Tensor, prompt: Sequence[int], actions: Tensor) -> Tensor:
        """Energies of given chunks.

        Args:
            features: From ``encode``.
            prompt: The actor's, its first token included.
            actions: (K, T, A) normalised, padded or only those that the energy model takes.

        Returns:
            (K,) float32.

        Raises:
            ValueError: There is no energy model, or a shape or token does not fit.
        """
        inputs, padded = self._inputs.prompts(features, [prompt])
        check_chunks(actions, self._actor.action_dim, self.config)
        key = ("judge", len(features), *inputs[1].shape, *actions.shape, padded)
        function = functools.partial(self._actor.judge, padded=padded)
        (energies,) = self._run(key, function, *inputs, self._inputs.there(actions.float()))
        return energies

    def energies(self, prefix: Prefix, actions: Tensor) -> Tensor:
        """Energies of given chunks over a prefix that ``act`` has left.

        Args:
            prefix: Of what was drawn.
            actions: (K, T, A) as for ``judge``, on the engine's device; may want a gradient.

        Returns:
            (K,) float32.
        """
        context, _, ends = prefix.kept
        return self._actor.energies(context, ends, actions, padded=prefix.padded)

    @torch.no_grad()
    def plan(self, features: Tensor, prompt: Sequence[int], limit: int | None = None) -> list[int]:
        """Writes a subtask, always the most probable token next.

        Args:
            features: From ``encode``.
            prompt: The planner's, its first token included.
            limit: Most tokens; None for the configuration's.

        Returns:
            The tokens before the end token, or before the limit.

        Raises:
            ValueError: A shape or token does not fit the model, or the limit.
        """
        most = self.config.max_subtask_tokens
        limit = most if limit is None else limit
        if not 0 < limit <= most:
            raise ValueError(f"limit {limit}, expected 1 to {most}")
        return self._write(features, prompt, limit, self.options.end_token)

    def _write(
        self, features: Tensor, prompt: Sequence[int], limit: int, end: int | None
    ) -> list[int]:
        inputs, padded = self._inputs.prompts(features, [prompt])
        most = self.config.max_subtask_tokens
        return self._planner.write(
            self._run, *inputs, room=most, limit=limit, end=end, padded=padded
        )

    @torch.no_grad()
    def score(
        self, features: Tensor, prompt: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> Tensor:
        """How probable subtasks are, all of them over one run of the prefix.

        Args:
            features: From ``encode``.
            prompt: The planner's, its first token included.
            texts: Tokens of each subtask, without the end token, which is added.

        Returns:
            (N,) float32 log-probabilities, the end tokens' included.

        Raises:
            ValueError: A shape or token does not fit the model.
        """
        inputs, padded = self._inputs.prompts(features, [prompt])
        if not texts:
            raise ValueError("no texts to score")
        rows = [[*text, self.options.end_token] for text in texts]
        # Not in buckets: the same subtasks come again and again.
        targets = pad_tokens(rows, "text", self.config, self.config.max_subtask_tokens)
        key = ("score", len(features), inputs[1].shape[1], *targets[0].shape, padded)
        function = functools.partial(self._planner.score, padded=padded)
        (scores,) = self._run(key, function, *inputs, *map(self._inputs.there, targets))
        return scores

    @torch.no_grad()
    def warm(
        self,
        views: int,
        prompt_lengths: Sequence[int],
        *,
        decided: bool = False,
        unconditional: bool = False,
        texts: Sequence[Sequence[int]] = (),
    ) -> None:
        """Runs everything once, so that what is compiled or captured is ready.

        Args:
            views: Cameras.
            prompt_lengths: Tokens of the prompts that will come.
            decided: Whether actions will be decided: chunks are then drawn with and without.
            unconditional: Whether chunks will be drawn with a second prompt.
            texts: Subtasks that will be scored; without any, the planner writes.
        """
        side = self.config.image_size
        state = self._inputs.generator.get_state()
        features = self.encode(torch.zeros(views, 3, side, side))
        old = torch.zeros(1, self.config.max_action_dim)
        for length in self._inputs.lengths(prompt_lengths):
            prompt = [0] * length
            other = prompt if unconditional else None
            for known in (None, old) if decided else (None,):
                drawn = self.act(features, prompt, decided=known, unconditional=other)
                if drawn.prefix is not None:
                    self.again(drawn)
            if texts:
                self.score(features, prompt, texts)
            else:
                # No end, or the first token might be it, and the step to the next stays cold.
                self._write(features, prompt, min(2, self.config.max_subtask_tokens), end=None)
        self._inputs.generator.set_state(state)
