# SPDX-License-Identifier: Apache-2.0
"""The expert's loss and its sampling against flow matching written out."""

import numpy as np
import pytest
import torch
from pi05_runs import CONFIG, NOISE, TIMES, assert_same, gradients, only_action, run
from pi05_samples import make_model, padded, random_action, random_batch, random_texts, random_views


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def expert_calls(model, monkeypatch):
    """(noisy actions, times, velocities) of each call of the expert."""
    calls, run_expert = [], model.run_expert

    def spy(noisy, times, prefix, seen, depth=None):
        velocity, hidden = run_expert(noisy, times, prefix, seen, depth)
        calls.append((noisy, times, velocity))
        return velocity, hidden

    monkeypatch.setattr(model, "run_expert", spy)
    return calls


@pytest.mark.parametrize("delay", [None, (0, 3, 8)])
def test_action_loss_is_flow_matching_on_what_is_neither_padded_nor_given(
    model, expert_calls, delay
):
    batch = only_action(random_batch(CONFIG, delay=delay))
    output = run(model, batch, alpha=2.0)
    [(noisy, times, velocity)] = expert_calls
    target, squares = batch.action, []
    for row, step, dim in np.ndindex(3, CONFIG.chunk, CONFIG.max_action_dim):
        given = delay is not None and step < delay[row]
        time = 0.0 if given else TIMES[row].item()
        noise, action = NOISE[row, step, dim].item(), target.actions[row, step, dim].item()
        assert noisy[row, step, dim].item() == pytest.approx(
            time * noise + (1 - time) * action, abs=1e-6
        )
        assert times.expand(3, -1)[row, step].item() == pytest.approx(time)
        square = (velocity[row, step, dim].item() - (noise - action)) ** 2
        if target.is_pad[row, step] or given or dim >= target.dims:
            assert output.action_loss[row, step, dim].item() == 0.0
        else:
            assert output.action_loss[row, step, dim].item() == pytest.approx(square, rel=1e-4)
            squares.append(square)
    assert output.total_loss.item() == pytest.approx(2.0 * np.mean(squares), rel=1e-5)


def test_given_actions_are_seen_without_noise(model):
    delay = (2, 2, 2)
    batch = only_action(random_batch(CONFIG, delay=delay))
    before = run(model, batch).action_loss
    noise = NOISE.clone()
    noise[:, :2] = 100.0
    assert torch.equal(run(model, batch, noise=noise).action_loss, before)
    batch.action.actions[:, :2] += 1.0
    assert not torch.allclose(run(model, batch).action_loss[:, 2:], before[:, 2:], rtol=1e-3)


def test_padded_dims_and_steps_train_no_output(model):
    batch = only_action(random_batch(CONFIG))
    batch.action.is_pad[:] = True
    batch.action.is_pad[0, 0] = False
    found = gradients(model, run(model, batch).total_loss)
    bias = found["action_out_proj.bias"]
    assert bias[: batch.action.dims].all()
    assert not bias[batch.action.dims :].any()


def test_one_time_for_all_actions_or_one_for_each_is_the_same(model):
    views, actor = random_views(CONFIG), padded(random_texts(CONFIG, (4, 6, 2)))
    _, seen, prefix = model.prefix(views, model.embed_pictures(views), actor)
    together = model.run_expert(NOISE, TIMES, prefix, seen)
    apart = model.run_expert(NOISE, TIMES[:, None].expand(-1, CONFIG.chunk), prefix, seen)
    assert_same(apart, together)


@pytest.mark.parametrize("delay", [None, (0, 3, 1)])
def test_flow_samples_are_so_many_calls_on_one_prefix(model, delay):
    batch = only_action(random_batch(CONFIG, delay=delay))
    noise, times = torch.randn(12, *NOISE.shape[1:]), torch.rand(12)
    together = run(model, batch, flow_samples=4, noise=noise, times=times)
    apart = [
        run(model, batch, noise=noise[rows], times=times[rows])
        for rows in (slice(start, start + 3) for start in range(0, 12, 3))
    ]
    assert_same(together.action_loss, torch.cat([output.action_loss for output in apart]))
    assert_same(together.suffix_embeds, torch.cat([output.suffix_embeds for output in apart]))
    mean = torch.stack([output.total_loss for output in apart]).mean()
    assert_same(together.total_loss, mean)
    ours, theirs = gradients(model, together.total_loss), gradients(model, mean)
    for name, gradient in theirs.items():
        assert_same(ours[name], gradient, rtol=1e-4, msg=name)


def test_noise_and_times_are_drawn_anew_for_each_sample_from_torchs_seed(model, expert_calls):
    batch = only_action(random_batch(CONFIG))
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(batch, flow_samples=2).action_loss)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    noisy, times, _ = expert_calls[0]
    assert len(times[:, 0].unique()) == 6
    assert not torch.equal(noisy[:3], noisy[3:])


@pytest.mark.parametrize("count", [0, 3, CONFIG.chunk])
def test_chunks_are_euler_steps_around_what_is_decided(model, expert_calls, count):
    batch = random_batch(CONFIG)
    decided = random_action(CONFIG, seed=5).actions[:, :count]
    steps = 4
    chunk = model.sample_actions(
        batch.views, batch.actor, NOISE, steps=steps, decided=decided if count else None
    )
    x = NOISE.double().numpy()
    for step, (noisy, times, velocity) in enumerate(expert_calls):
        x[:, :count] = decided.numpy()
        np.testing.assert_allclose(noisy, x, atol=1e-5)
        expected = np.full((3, CONFIG.chunk), 1 - step / steps)
        expected[:, :count] = 0.0
        np.testing.assert_allclose(times.reshape(3, -1).expand(-1, CONFIG.chunk), expected)
        x = x - velocity.numpy() / steps
    x[:, :count] = decided.numpy()
    np.testing.assert_allclose(chunk, x, atol=1e-5)
    assert len(expert_calls) == steps


def test_what_is_decided_replaces_the_noise_there_and_steers_the_rest(model):
    batch = random_batch(CONFIG)
    decided = random_action(CONFIG, seed=5).actions[:, :2]
    noise = NOISE.clone()
    noise[:, :2] = 50.0
    chunks = [
        model.sample_actions(batch.views, batch.actor, given, decided=choice)
        for given, choice in ((NOISE, decided), (noise, decided), (NOISE, decided + 1.0))
    ]
    assert torch.equal(chunks[0], chunks[1])
    assert torch.equal(chunks[0][:, :2], decided)
    assert not torch.allclose(chunks[0][:, 2:], chunks[2][:, 2:], atol=1e-3)


def test_sampling_leaves_its_arguments_as_they_are(model):
    batch, noise = random_batch(CONFIG), NOISE.clone()
    decided = noise[:, :2] + 1.0
    kept = decided.clone()
    model.sample_actions(batch.views, batch.actor, noise, decided=decided)
    assert torch.equal(noise, NOISE)
    assert torch.equal(decided, kept)
