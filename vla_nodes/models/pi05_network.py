# SPDX-License-Identifier: Apache-2.0
"""The network of pi0.5: SigLIP, a language model, and an expert that sees its keys and values.

Parameters have the names of LeRobot's ``PI05Pytorch``. How it learns, plans and acts is for
``pi05``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import SiglipVisionConfig, SiglipVisionModel

from vla_nodes.models.flow import embed_times
from vla_nodes.models.gemma import AdaptiveRmsNorm, Gemma, Layer, rope_table
from vla_nodes.models.pi05_batch import Tokens, Views
from vla_nodes.models.pi05_config import Pi05Config

KeysAndValues = Sequence[tuple[Tensor, Tensor]]
"""By layer, two of (B, kv_heads, N, head_dim)."""


class Pi05Network(nn.Module):
    """What a pi0.5 is made of, and the runs of its parts.

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
