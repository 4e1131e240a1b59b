# SPDX-License-Identifier: Apache-2.0
"""Hierarchical pi0.5: one language model plans in words, an action expert acts on what it sees.

The planner reads pictures and a prompt and writes a subtask. The actor reads the pictures and a
prompt with that subtask, and the expert denoises a chunk of actions while it attends to the keys
and values of each of the language model's layers. Parameters have the names of LeRobot's
``PI05Pytorch``. pi0.5: https://arxiv.org/abs/2504.16054; protection of the language model from
the expert's gradients: https://arxiv.org/abs/2505.23705.

This is the form for training, and the one that says what is right; ``vla_nodes.inference`` runs
the same weights faster.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import SiglipVisionConfig, SiglipVisionModel

from vla_nodes.models.flow import embed_times, mean_where, sample_times
from vla_nodes.models.gemma import AdaptiveRmsNorm, Gemma, Layer, rope_table
from vla_nodes.models.pi05_batch import ActionTarget, Pi05Batch, Pi05Output, Tokens, Views
from vla_nodes.models.pi05_config import Pi05Config

KeysAndValues = Sequence[tuple[Tensor, Tensor]]
"""By layer, two of (B, kv_heads, N, head_dim)."""


class Pi05(nn.Module):
    """The model; see the module.

    Where parameters are bfloat16, norms, losses, the last projection and the steps of denoising
    are computed in float32 nevertheless; their own parameters, and those of the embedding of flow
    time, may then stay float32, as ``checkpoint.load_model`` leaves them.

    Attributes:
        config: Sizes.
    """

    def __init__(self, config: Pi05Config) -> None:
        super().__init__()
        self.config = config
        self._checkpointing = False
        vision = nn.ModuleDict(
            {
                "vision_tower": SiglipVisionModel(_siglip_config(config)),
                "multi_modal_projector": nn.ModuleDict(
                    {"linear": nn.Linear(config.vision.width, config.language.width)}
                ),
            }
        )
        language = Gemma(config.language, adaptive=False, vocabulary=config.vocabulary)
        expert = Gemma(config.expert, adaptive=True)
        self.paligemma_with_expert = nn.ModuleDict(
            {
                "paligemma": nn.ModuleDict(
                    {"model": nn.ModuleDict({**vision, "language_model": language})}
                ),
                "gemma_expert": nn.ModuleDict({"model": expert}),
            }
        )
        width = config.expert.width
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        self.action_out_proj = nn.Linear(width, config.max_action_dim)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        """Weights to train from: unit variance throughout; the expert's layers begin as nothing."""
        for stack in (self.language, self.expert):
            for module in stack.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=module.in_features**-0.5)
                elif isinstance(module, nn.Embedding):
                    nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        for module in self.expert.modules():
            if isinstance(module, AdaptiveRmsNorm):
                nn.init.zeros_(module.dense.weight)
                nn.init.zeros_(module.dense.bias)

    @property
    def vision(self) -> SiglipVisionModel:
        """SigLIP."""
        return self.vlm["model"]["vision_tower"]  # type: ignore[index]

    @property
    def projector(self) -> nn.Linear:
        """From SigLIP's tokens to the language model's."""
        return self.vlm["model"]["multi_modal_projector"]["linear"]  # type: ignore[index]

    @property
    def language(self) -> Gemma:
        """The language model; its token embedding is the language head, too."""
        return self.vlm["model"]["language_model"]  # type: ignore[index]

    @property
    def expert(self) -> Gemma:
        """The action expert's layers."""
        return self.paligemma_with_expert["gemma_expert"]["model"]  # type: ignore[index]

    @property
    def vlm(self) -> nn.ModuleDict:
        """All that the action loss must leave alone: vision, projector and language model."""
        return self.paligemma_with_expert["paligemma"]  # type: ignore[return-value]

    @property
    def checkpointing(self) -> bool:
        """Whether training computes layers again for their gradients instead of keeping them."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        self._checkpointing = wanted
        if wanted:
            self.vision.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.vision.gradient_checkpointing_disable()

    # --- parts ----------------------------------------------------------------------------

    def embed_pictures(self, views: Views) -> Tensor:
        """Tokens of the pictures, (B, V·P, W): P a picture, absent ones included."""
        tokens = self.vision(pixel_values=views.pixels.flatten(0, 1)).last_hidden_state
        return self.projector(tokens).unflatten(0, views.mask.shape).flatten(1, 2)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """(B, L) to (B, L, W), scaled as Gemma does it."""
        return self.language.embed_tokens(ids) * self.config.language.width**0.5

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., W) to (..., vocabulary)."""
        return functional.linear(hidden, self.language.embed_tokens.weight)

    def run_language(
        self, embeds: Tensor, mask: Tensor, positions: Tensor
    ) -> tuple[Tensor, KeysAndValues]:
        """Runs the language model.

        Args:
            embeds: (B, N, W).
            mask: (B, N, N) bool, True where a token sees another.
            positions: (B, N).

        Returns:
            Last hidden states (B, N, W), and each layer's keys and values.
        """
        rope = rope_table(positions, self.config.language.head_dim, embeds.dtype)

        def run(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            attention = layer.self_attn
            normed = layer.input_layernorm(x)
            keys, values = attention.keys_and_values(normed, rope)
            x = x + attention.attend(attention.queries(normed, rope), keys, values, mask)
            return x + layer.mlp(layer.post_attention_layernorm(x)), keys, values

        x, cache = embeds, []
        for layer in self.language:
            x, keys, values = self._checkpointed(run, layer, x)
            cache.append((keys, values))
        return self.language.norm(x), cache

    def run_expert(
        self,
        noisy: Tensor,
        times: Tensor,
        prefix: KeysAndValues,
        seen: Tensor,
        depth: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predicts the velocity of noisy actions.

        Args:
            noisy: (B, T, A).
            times: (B,) flow times, or (B, T) where each action has its own.
            prefix: Keys and values of the actor's prefix.
            seen: (B, N) bool, the prefix's tokens that are there.
            depth: Layers that are run, from the first on, before the last norm; None for all.

        Returns:
            Velocities (B, T, A) float32, and the last hidden states (B, T, E).
        """
        condition = self.embed_times(times if times.ndim == 2 else times[:, None])
        x = self.action_in_proj(noisy.to(self.action_in_proj.weight.dtype))
        count = noisy.shape[1]
        positions = seen.sum(1, keepdim=True) + torch.arange(count, device=noisy.device)
        rope = rope_table(positions, self.config.expert.head_dim, x.dtype)
        mask = functional.pad(seen, (0, count), value=True)[:, None].expand(-1, count, -1)

        def run(layer: Layer, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            attention = layer.self_attn
            normed, gate = layer.input_layernorm(x, condition)
            own_keys, own_values = attention.keys_and_values(normed, rope)
            keys = torch.cat([keys, own_keys], dim=2)
            values = torch.cat([values, own_values], dim=2)
            x = x + gate * attention.attend(attention.queries(normed, rope), keys, values, mask)
            normed, gate = layer.post_attention_layernorm(x, condition)
            return x + gate * layer.mlp(normed)

        layers = list(zip(self.expert, prefix, strict=True))
        for layer, (keys, values) in layers[:depth]:
            x = self._checkpointed(run, layer, x, keys, values)
        hidden, _ = self.expert.norm(x, condition)
        out = self.action_out_proj
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.float(), out.weight.float(), out.bias.float()), hidden

    def embed_times(self, times: Tensor) -> Tensor:
        """(...) flow times to (..., E), the condition of the expert's norms."""
        config = self.config
        width = config.expert.width
        embedded = embed_times(times, width, config.min_period, config.max_period)
        embedded = self.time_mlp_in(embedded.to(self.time_mlp_in.weight.dtype))
        return functional.silu(self.time_mlp_out(functional.silu(embedded)))

    def _checkpointed(self, run, *args):  # type: ignore[no-untyped-def]
        if self._checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)
        return run(*args)

    # --- training ---------------------------------------------------------------------------

    def forward(
        self,
        batch: Pi05Batch,
        *,
        alpha: float = 10.0,
        insulate: bool = True,
        flow_samples: int = 1,
        noise: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Pi05Output:
        """Computes the losses.

        Args:
            batch: B items.
            alpha: Weight of the action loss; at 0 the action branch is not run.
            insulate: Whether the action loss leaves vision and language model alone: the
                prefix's keys and values are then constants to it in every layer.
            flow_samples: Noises and times for each item, which share its prefix; F. Losses and
                hidden states of actions then have F·B rows, sample by sample.
            noise: (F·B, T, A); drawn where None.
            times: (F·B,) flow times; drawn where None.

        Raises:
            ValueError: The batch has nothing to learn, or half of a branch.
        """
        if (batch.planner is None) != (batch.target is None):
            raise ValueError("planner and target come together; one of them is missing")
        if (batch.actor is None) != (batch.action is None):
            raise ValueError("actor and action come together; one of them is missing")
        acts = batch.actor is not None and alpha != 0.0
        if batch.planner is None and not acts:
            raise ValueError("nothing to learn: no planner, and no actor with alpha above 0")
        trains_vision = batch.planner is not None or not insulate
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains_vision):
            pictures = self.embed_pictures(batch.views)
        parts: dict[str, Tensor] = {}
        total = pictures.new_zeros((), dtype=torch.float32)
        if batch.planner and batch.target:
            loss, parts["prefix_embeds"] = self._text_loss(
                batch.views, pictures, batch.planner, batch.target
            )
            parts["text_loss"] = loss
            total = total + mean_where(loss, batch.target.mask)
        if acts and batch.actor and batch.action:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not insulate):
                context, there, prefix = self.prefix(batch.views, pictures, batch.actor)
            parts |= {"context": context, "context_there": there}
            loss, counted, parts["suffix_embeds"] = self._action_loss(
                batch.action, prefix, there, flow_samples, noise, times
            )
            parts["action_loss"] = loss
            total = total + alpha * mean_where(loss, counted)
        return Pi05Output(total, **parts)

    def prefix(
        self, views: Views, pictures: Tensor, prompt: Tokens, text: Tokens | None = None
    ) -> tuple[Tensor, Tensor, KeysAndValues]:
        """Runs the language model on pictures, a prompt, and a text that follows it.

        Pictures and prompt see each other; the text's tokens see what lies before them.

        Args:
            views: Of B observations; which cameras are there.
            pictures: (B, V·P, W), embedded.
            prompt: (B, L).
            text: (B, S).

        Returns:
            Last hidden states (B, N, W), which tokens are there (B, N) bool, keys and values.
        """
        seen = [
            views.mask.repeat_interleave(self.config.image_tokens, dim=1),
            *(part.mask for part in (prompt, text) if part),
        ]
        order = [torch.zeros_like(seen[0], dtype=torch.long), torch.zeros_like(prompt.ids)]
        embeds = [pictures, self.embed_tokens(prompt.ids).to(pictures.dtype)]
        if text:
            order.append(text.mask.cumsum(1))
            embeds.append(self.embed_tokens(text.ids).to(pictures.dtype))
        there, place = torch.cat(seen, dim=1), torch.cat(order, dim=1)
        mask = (place[:, None, :] <= place[:, :, None]) & there[:, None, :]
        hidden, cache = self.run_language(torch.cat(embeds, dim=1), mask, there.cumsum(1) - 1)
        return hidden, there, cache

    def _text_loss(
        self, views: Views, pictures: Tensor, prompt: Tokens, target: Tokens
    ) -> tuple[Tensor, Tensor]:
        """Cross entropies (B, S), and the last hidden states of pictures and prompt."""
        hidden, there, _ = self.prefix(views, pictures, prompt, target)
        start = hidden.shape[1] - target.ids.shape[1]
        logits = self.logits(_at_last_token(hidden, there, start - 1)[:, :-1])
        loss = functional.cross_entropy(logits.float().mT, target.ids, reduction="none")
        return torch.where(target.mask, loss, 0.0), hidden[:, :start]

    def _action_loss(
        self,
        target: ActionTarget,
        prefix: KeysAndValues,
        there: Tensor,
        samples: int,
        noise: Tensor | None,
        times: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Squared errors (F·B, T, A), which of them count, and the expert's hidden states."""
        actions, is_pad = _repeat(target.actions, samples), _repeat(target.is_pad, samples)
        delay = None if target.delay is None else _repeat(target.delay, samples)
        prefix = [(_repeat(keys, samples), _repeat(values, samples)) for keys, values in prefix]
        count = actions.shape[1]
        noise = torch.randn_like(actions) if noise is None else noise
        times = sample_times(len(actions), actions.device) if times is None else times
        times = times[:, None].expand(-1, count)
        learnt = ~is_pad
        if delay is not None:
            given = torch.arange(count, device=actions.device) < delay[:, None]
            times, learnt = torch.where(given, 0.0, times), learnt & ~given
        noisy = times[..., None] * noise + (1.0 - times[..., None]) * actions
        velocity, hidden = self.run_expert(noisy, times, prefix, _repeat(there, samples))
        real = torch.arange(actions.shape[2], device=actions.device) < target.dims
        counted = learnt[..., None] & real
        return torch.where(counted, (noise - actions - velocity).square(), 0.0), counted, hidden

    # --- inference, plainly -------------------------------------------------------------------

    @torch.no_grad()
    def sample_actions(
        self,
        views: Views,
        prompt: Tokens,
        noise: Tensor,
        *,
        steps: int | None = None,
        decided: Tensor | None = None,
    ) -> Tensor:
        """Draws chunks: runs the prefix, and denoises.

        Args:
            views: Of B observations.
            prompt: Of the actor.
            noise: As the others, and what is returned, of ``denoise``.
            steps: Likewise.
            decided: Likewise.
        """
        _, there, prefix = self.prefix(views, self.embed_pictures(views), prompt)
        return self.denoise(prefix, there, noise, steps=steps, decided=decided)

    @torch.no_grad()
    def denoise(
        self,
        prefix: KeysAndValues,
        there: Tensor,
        noise: Tensor,
        *,
        steps: int | None = None,
        decided: Tensor | None = None,
        depth: int | None = None,
    ) -> Tensor:
        """Denoises chunks by Euler steps from time 1 to 0.

        Args:
            prefix: Keys and values of the actor's prefix.
            there: (B, N) bool, the prefix's tokens that are there.
            noise: (B, T, A).
            steps: None for the configuration's.
            decided: (B, d, A) actions that are taken as given at the start of the chunks.
            depth: Layers of the expert that are run, from the first on; None for all.

        Returns:
            (B, T, A) float32, normalised.
        """
        steps = steps or self.config.steps
        decided = noise[:, :0] if decided is None else decided
        given = decided.shape[1]
        x = torch.cat([decided, noise[:, given:]], dim=1)
        for step in range(steps):
            times = noise.new_full(noise.shape[:2], 1.0 - step / steps)
            times[:, :given] = 0.0
            flow_times = times if given else times[:, 0]
            velocity, _ = self.run_expert(x, flow_times, prefix, there, depth)
            x = torch.cat([decided, (x - velocity / steps)[:, given:]], dim=1)
        return x

    @torch.no_grad()
    def next_token(self, views: Views, prompt: Tokens, text: Tokens | None = None) -> Tensor:
        """Logits (B, vocabulary) of the token after prompt and text; runs all of it each time."""
        hidden, there, _ = self.prefix(views, self.embed_pictures(views), prompt, text)
        return self.logits(_at_last_token(hidden, there, hidden.shape[1] - 1)[:, 0])


def _siglip_config(config: Pi05Config) -> SiglipVisionConfig:
    return SiglipVisionConfig(  # type: ignore[call-arg]
        hidden_size=config.vision.width,
        intermediate_size=config.vision.mlp,
        num_hidden_layers=config.vision.depth,
        num_attention_heads=config.vision.heads,
        image_size=config.image_size,
        patch_size=config.vision.patch,
        vision_use_head=False,
    )


def _repeat(x: Tensor, count: int) -> Tensor:
    """The batch ``count`` times, one behind the other."""
    return x if count == 1 else x.repeat(count, *[1] * (x.ndim - 1))


def _at_last_token(hidden: Tensor, there: Tensor, start: int) -> Tensor:
    """The hidden state of the last token that is there, at each place from ``start`` on.

    From it the token after that place is predicted, however many are padding in between.

    Args:
        hidden: (B, N, W).
        there: (B, N) bool.
        start: First place.

    Returns:
        (B, N - start, W).
    """
    places = torch.arange(hidden.shape[1], device=hidden.device)
    last = torch.where(there, places, 0).cummax(dim=1).values[:, start:]
    return hidden.gather(1, last[..., None].expand(-1, -1, hidden.shape[2]))
