# SPDX-License-Identifier: Apache-2.0
import gc
import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from recipe_samples import ToyObjective, logged, toy_items, toy_model
from safetensors.torch import load_file

from vla_training.recipes import training_loop
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.job import Job, Prepared
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.run_state import newest_state
from vla_training.recipes.sharing import part_places, training_rngs
from vla_training.recipes.training_loop import train

SETTINGS = LoopSettings(
    steps=12, batch_size=8, learning_rate=0.01, ema=0.0, workers=0, log_every=1, save_every=100
)


def job(objective=None, dropout=0.0, **changes):
    made = Job(
        model=toy_model(dropout),
        objective=objective or ToyObjective(),
        items=toy_items(30),
        validation=None,
        augmentation=None,
        export=lambda: None,
        identity={"tokenizer": "a1"},
    )
    return replace(made, **changes)


def trained(out, settings=SETTINGS, **changes):
    """Weights after training, by name."""
    ours = job(**changes)
    assert train(ours, settings, out).step == settings.steps
    return {name: p.detach().clone() for name, p in ours.model.named_parameters()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_steps_are_those_of_a_plain_loop(tmp_path):
    """Batches, means over what counts, clipping, rate and AdamW, written down plainly."""
    settings = replace(SETTINGS, weight_decay=0.3, clip=0.05)
    items, model = toy_items(30), toy_model()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    losses = {}
    for step in range(12):
        epochs = [np.random.default_rng((0, e)).permutation(30) for e in range(4)]
        chosen = [items[k] for k in np.concatenate(epochs)[8 * step : 8 * step + 8]]
        noise = np.stack([rng.normal(size=2) for rng in training_rngs(0, step, range(8))])
        state = torch.stack([i.state for i in chosen]) + 0.1 * torch.from_numpy(noise).float()
        predicted = model(state)
        errors = [
            (predicted[k] - actions).square()
            for k, item in enumerate(chosen)
            for actions in item.actions[~item.action_is_pad]
        ]
        loss = 2.0 * torch.stack(errors).mean() + 0.1 * predicted.square().mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
        for parameter in model.parameters():
            parameter.grad *= min(1.0, 0.05 / float(norm))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        optimizer.step()
        losses[step + 1] = loss.item()
    weights = trained(tmp_path, settings)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), atol=1e-5, rtol=1e-4)
    assert logged(tmp_path, "train/loss") == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_parts_of_a_step_make_the_same_step(tmp_path, accumulate):
    whole = trained(tmp_path / "whole")
    parts = trained(tmp_path / "parts", replace(SETTINGS, accumulate=accumulate))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)


def test_every_item_of_a_step_has_one_place():
    places = [p for k in range(3) for r in range(2) for p in part_places(24, k, r, 2, 3)]
    assert sorted(places) == list(range(24))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, ema):
    settings = replace(SETTINGS, ema=ema, save_every=5)
    whole = trained(tmp_path / "whole", settings, dropout=0.5)

    class Interrupted(ToyObjective):
        def prepare(self, batch, rngs, device):
            self.step = getattr(self, "step", 0) + 1
            if self.step == 7:
                signal.raise_signal(signal.SIGINT)
            return super().prepare(batch, rngs, device)

    out = tmp_path / "parts"
    assert train(job(Interrupted(), dropout=0.5), settings, out).step == 7
    rest = job(dropout=0.5)
    with torch.no_grad():
        for parameter in rest.model.parameters():
            parameter.zero_()
    assert train(rest, settings, out, resume=True).step == 12
    assert equal(whole, dict(rest.model.named_parameters()))
    for name in ("train/loss", "train/gradient_norm", "train/learning_rate"):
        assert logged(out, name) == logged(tmp_path / "whole", name)
    one, other = (newest_state(f / "state") for f in (out, tmp_path / "whole"))
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()


@pytest.fixture
def _ctrl_c_heard():
    """What a shell starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Struck(ToyObjective):
    """Ctrl-C as a terminal sends it, to the loading processes as well, at some steps."""

    at = (3,)
    step = 0

    def prepare(self, batch, rngs, device):
        self.step += 1
        if self.step in self.at:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGINT)
            # Of this very thread, or it might come late and count as one with the next.
            signal.raise_signal(signal.SIGINT)
        return super().prepare(batch, rngs, device)


def test_ctrl_c_is_answered_once_and_loses_no_step(tmp_path, capfd):
    assert train(job(Struck()), replace(SETTINGS, workers=2), tmp_path).step == 3
    assert newest_state(tmp_path / "state").name == "step-00000003"
    assert capfd.readouterr().err.count("stopping after this step") == 1
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("_ctrl_c_heard")
def test_a_second_ctrl_c_stops_at_once_and_leaves_no_process(tmp_path):
    class Twice(Struck):
        def losses(self, model, inputs):
            if self.step == 3:
                signal.raise_signal(signal.SIGINT)
            return super().losses(model, inputs)

    with pytest.raises(KeyboardInterrupt):
        train(job(Twice()), replace(SETTINGS, workers=2), tmp_path)
    assert newest_state(tmp_path / "state") is None
    gc.collect()
    assert not multiprocessing.active_children()


def test_a_stopped_training_gives_ctrl_c_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    trained(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_training_that_is_done_is_not_gone_on_with(tmp_path):
    weights = trained(tmp_path)
    again = job()
    assert train(again, SETTINGS, tmp_path, resume=True).step == 12
    assert equal(weights, dict(again.model.named_parameters()))


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(tmp_path):
    class Wild(ToyObjective):
        def losses(self, model, inputs):
            losses = super().losses(model, inputs)
            self.step = getattr(self, "step", 0) + 1
            return {**losses, "size": losses["size"] * (float("nan") if self.step == 4 else 1)}

    ours = job(Wild())
    with pytest.raises(TrainingError, match="step 4: the loss 'size' is nan") as error:
        train(ours, SETTINGS, tmp_path)
    assert "\n" not in str(error.value)
    assert all(p.isfinite().all() for p in ours.model.parameters())


def test_validation_changes_nothing_and_is_the_same_every_time(tmp_path):
    settings = replace(SETTINGS, learning_rate=1e-30, validate_every=3)
    plain = trained(tmp_path / "plain", dropout=0.5)
    held_out = toy_items(11, seed=1)
    watched = replace(SETTINGS, validate_every=3)
    assert equal(plain, trained(tmp_path / "watched", watched, dropout=0.5, validation=held_out))
    trained(tmp_path / "still", settings, dropout=0.5, validation=held_out)
    losses = logged(tmp_path / "still", "validation/loss")
    assert list(losses) == [3, 6, 9, 12]
    assert len(set(losses.values())) == 1
    assert logged(tmp_path / "still", "validation/seen")[3] == 1.0


def test_validation_and_export_see_the_average(tmp_path):
    held_out, exported = toy_items(8, seed=1), []
    ours = job(ToyObjective(noise=0.0), validation=held_out)
    ours = replace(ours, export=lambda: exported.append(ours.model[0].weight.detach().clone()))
    train(ours, replace(SETTINGS, ema=0.99), tmp_path)
    average = load_file(newest_state(tmp_path / "state") / "ema.safetensors")
    assert torch.equal(exported[-1], average["0.weight"])
    assert not torch.equal(exported[-1], ours.model[0].weight)
    ours.model.load_state_dict(average)
    with torch.no_grad():
        predicted = [ours.model(item.state) for item in held_out]
    errors = [
        (p - item.actions[~item.action_is_pad]).square()
        for p, item in zip(predicted, held_out, strict=True)
    ]
    loss = 2.0 * torch.cat(errors).mean() + 0.1 * torch.stack(predicted).square().mean()
    assert logged(tmp_path, "validation/loss")[12] == pytest.approx(loss.item(), rel=1e-5)


def test_only_so_many_items_are_validated_on(tmp_path):
    class Counting(ToyObjective):
        seen = 0

        def losses(self, model, inputs):
            self.seen += 0 if model.training else len(inputs[0])
            return super().losses(model, inputs)

    objective = Counting()
    settings = replace(SETTINGS, validation_items=5)
    train(job(objective, validation=toy_items(40)), settings, tmp_path)
    assert objective.seen == 5


def test_a_frozen_parameter_has_no_state_and_stays(tmp_path):
    ours = job()
    ours.model[0].requires_grad_(False)
    before = ours.model[0].weight.clone()
    train(ours, SETTINGS, tmp_path)
    assert torch.equal(before, ours.model[0].weight)
    sizes = {f.name: f.stat().st_size for f in newest_state(tmp_path / "state").iterdir()}
    assert sizes["model.safetensors"] < 4 * (16 * 3 + 3) + 400


def test_what_cannot_be_trained_is_refused(tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="batch_size is 8, expected a multiple of 1 processes"):
        train(job(), replace(SETTINGS, accumulate=3), tmp_path)
    with pytest.raises(TrainingError, match="holds no state to resume from"):
        train(job(), SETTINGS, tmp_path, resume=True)
    frozen = job()
    frozen.model.requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter is to be trained"):
        train(frozen, SETTINGS, tmp_path)
    monkeypatch.setattr(training_loop.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="wandb is not installed"):
        train(job(), replace(SETTINGS, wandb="arms"), tmp_path)


def test_other_data_are_not_resumed_on(tmp_path):
    trained(tmp_path)
    with pytest.raises(TrainingError, match="another training: items was 30, and is 31"):
        train(job(items=toy_items(31)), SETTINGS, tmp_path, resume=True)
    with pytest.raises(TrainingError, match="tokenizer was 'a1', and is 'b2'"):
        train(job(identity={"tokenizer": "b2"}), SETTINGS, tmp_path, resume=True)


def test_a_training_is_not_resumed_on_other_untrained_weights(tmp_path):
    def half_frozen():
        ours = job()
        ours.model[0].requires_grad_(False)
        return ours

    train(half_frozen(), SETTINGS, tmp_path)
    assert train(half_frozen(), SETTINGS, tmp_path, resume=True).step == 12
    other = half_frozen()
    with torch.no_grad():
        other.model[0].weight[3, 1] += 1e-3
    with pytest.raises(TrainingError, match="untrained weights was"):
        train(other, SETTINGS, tmp_path, resume=True)


def test_a_parameter_that_no_loss_depends_on_is_named(tmp_path):
    ours = job()
    ours.model.spare = torch.nn.Linear(1, 1)
    ours.model.forward = lambda x: torch.nn.Sequential(*list(ours.model)[:4])(x)
    with pytest.raises(TrainingError, match=r"spare\.weight is to be trained, and no loss"):
        train(ours, SETTINGS, tmp_path)


class Judged(ToyObjective):
    """Validation losses as they are given, in order."""

    def __init__(self, losses):
        super().__init__(noise=0.0)
        self.weights = {"action": 1.0}
        self.given = iter(losses)

    def losses(self, model, inputs):
        found = super().losses(model, inputs)
        if model.training:
            return found
        return {**found, "action": found["action"] * 0.0 + next(self.given)}

    def prepare(self, batch, rngs, device):
        made = super().prepare(batch, rngs, device)
        return Prepared(made.inputs, {**made.counts, "action": 1.0})


def judged(losses, written, **changes):
    """A training whose validations say so; what it writes is noted with the step."""
    ours = job(Judged(losses), validation=toy_items(8), keep_best=True, **changes)
    weight = next(ours.model.parameters())
    return replace(ours, export=lambda: written.append(float(weight.detach().sum())))


def test_training_ends_when_validation_gets_no_better_and_keeps_the_best(tmp_path):
    settings = replace(SETTINGS, steps=100, validate_every=2, patience=2, validation_items=8)
    written = []
    ours = judged([3.0, 1.0, 2.0, 1.5, 0.1], written)
    weight = next(ours.model.parameters())
    ended = train(ours, settings, tmp_path)
    assert (ended.step, ended.best, ended.interrupted) == (8, 1.0, False)
    assert len(written) == 2  # of 3.0 and 1.0, and of nothing later
    assert written[-1] != float(weight.detach().sum())


def test_patience_is_resumed(tmp_path):
    settings = replace(
        SETTINGS, steps=100, validate_every=2, patience=2, validation_items=8, save_every=2
    )
    first = replace(settings, steps=6)
    assert train(judged([3.0, 1.0, 2.0], []), first, tmp_path).best == 1.0
    written = []
    ended = train(judged([1.5, 0.5], written), settings, tmp_path, resume=True)
    assert (ended.step, ended.best, written) == (8, 1.0, [])
    again = train(judged([], []), settings, tmp_path, resume=True)
    assert (again.step, again.interrupted) == (8, False)


def test_a_validation_that_is_not_finite_is_named_and_is_no_best(tmp_path):
    written = []
    settings = replace(SETTINGS, validate_every=2, validation_items=8)
    with pytest.raises(TrainingError, match="validation after step 4: the loss 'action' is nan"):
        train(judged([3.0, float("nan"), 1.0], written), settings, tmp_path)
    assert len(written) == 1
