# SPDX-License-Identifier: Apache-2.0
"""Hierarchical pi0.5: one language model plans in words, an action expert acts on what it sees.

The planner reads pictures and a prompt and writes a subtask. The actor reads the pictures and a
prompt with that subtask, and the expert denoises a chunk of actions while it attends to the keys
and values of each of the language model's layers. pi0.5: https://arxiv.org/abs/2504.16054;
protection of the language model from the expert's gradients: https://arxiv.org/abs/2505.23705.

This is the form for training, and the one that says what is right; ``vla_nodes.inference`` runs
the same weights faster.
"""

import torch
from torch import Tensor

from vla_nodes.models.flow import mean_where
from vla_nodes.models.padding import at_last_token
from vla_nodes.models.pi05_batch import Pi05Batch, Pi05Output, Tokens, Views
from vla_nodes.models.pi05_losses import action_loss, text_loss
from vla_nodes.models.pi05_network import KeysAndValues, Pi05Network


class Pi05(Pi05Network):
    """The model; see the module.

    Where parameters are bfloat16, norms, losses, the last projection and the steps of denoising
    are computed in float32 nevertheless; their own parameters, and those of the embedding of flow
    time, may then stay float32, as ``checkpoint.load_model`` leaves them.
    """

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
            loss, parts["prefix_embeds"] = text_loss(
                self, batch.views, pictures, batch.planner, batch.target
            )
            parts["text_loss"] = loss
            total = total + mean_where(loss, batch.target.mask)
        if acts and batch.actor and batch.action:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not insulate):
                context, there, prefix = self.prefix(batch.views, pictures, batch.actor)
            parts |= {"context": context, "context_there": there}
            loss, counted, parts["suffix_embeds"] = action_loss(
                self, batch.action, prefix, there, flow_samples, noise, times
            )
            parts["action_loss"] = loss
            total = total + alpha * mean_where(loss, counted)
        return Pi05Output(total, **parts)

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
        return self.logits(at_last_token(hidden, there, hidden.shape[1] - 1)[:, 0])
