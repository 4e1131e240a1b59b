# SPDX-License-Identifier: Apache-2.0
"""Guided chunks against loops over the plain model's velocity, one of them LeRobot's."""

import pytest
import torch
from engine_samples import config, engine, noise, normal, pictures, plain, prompt, tokens, views
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor

EXACTLY = {"atol": 1e-5, "rtol": 0.0}


def velocity_of(seen, words, rows):
    """The plain model's velocity as a function of noisy actions and time."""
    model, given = plain(), views(seen, rows)
    with torch.no_grad():
        _, there, prefix = model.prefix(given, model.embed_pictures(given), tokens(words, rows))

    def velocity(x, time):
        return model.run_expert(x, torch.full((rows,), time), prefix, there)[0]

    return velocity


@pytest.mark.parametrize("lengths", [(9, 9), (9, 5), (5, 17)])
@pytest.mark.parametrize("bucket", [1, 8])
@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_two_prompts_are_mixed_in_every_step(lengths, bucket, weight):
    seen, start = pictures(2), noise(2)
    words, without = prompt(lengths[0]), prompt(lengths[1], seed=1)
    runs = engine(bucket=bucket)
    drawn = runs.act(
        runs.encode(seen), words, noise=start, unconditional=without, guidance=weight
    ).actions
    wanted, unwanted = velocity_of(seen, words, 2), velocity_of(seen, without, 2)
    x, steps = start, config().steps
    with torch.no_grad():
        for step in range(steps):
            time = 1.0 - step / steps
            base = unwanted(x, time)
            x = x - (base + weight * (wanted(x, time) - base)) / steps
    torch.testing.assert_close(drawn, x, atol=3e-5, rtol=0.0)


def lerobot_guided(velocity, start, old, delay, limit):
    """Euler steps with LeRobot's guidance.

    Its processor differentiates with respect to noisy actions only from where they are marked
    for it, which it does behind the velocity; marked before, it computes the product with the
    whole Jacobian, as published.
    """
    processor = RTCProcessor(
        RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP, max_guidance_weight=limit)
    )
    x, steps = start, config().steps
    for step in range(steps):
        time = 1.0 - step / steps
        speed = processor.denoise_step(
            x,
            old,
            delay,
            time,
            lambda x, time=time: velocity(x.requires_grad_(), time),
            execution_horizon=old.shape[1],
        )
        x = x - speed.detach() / steps
    return x


@pytest.mark.parametrize(
    ("delay", "overlap", "candidates", "bucket"),
    [(0, 8, 1, 1), (2, 5, 1, 1), (3, 3, 2, 1), (2, 6, 3, 8), (7, 8, 1, 1)],
)
def test_guidance_towards_the_old_chunk_is_lerobots(delay, overlap, candidates, bucket):
    seen, words, start = pictures(2), prompt(9), noise(candidates)
    old = normal(overlap, config().max_action_dim, seed=4)
    runs = engine(real_time="guided", bucket=bucket, max_guidance=5.0)
    drawn = runs.act(runs.encode(seen), words, noise=start, decided=old, delay=delay).actions
    velocity = velocity_of(seen, words, candidates)
    whole = old.expand(candidates, -1, -1) if candidates > 1 else old[None]
    expected = lerobot_guided(velocity, start, whole, delay, 5.0)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)


def test_guided_chunks_begin_closer_to_the_old_one():
    seen, words, start = pictures(2), prompt(9), noise(4)
    runs = engine(real_time="guided")
    features = runs.encode(seen)
    free = runs.act(features, words, noise=start).actions
    old = free[0] + 0.3
    drawn = runs.act(features, words, noise=start, decided=old, delay=4).actions
    assert (drawn - old)[:, :4].abs().mean() < 0.5 * (free - old)[:, :4].abs().mean()


def test_both_guidances_at_once():
    seen, start = pictures(1), noise(2)
    words, without, old = prompt(9), prompt(5, seed=1), normal(5, 8)
    runs = engine(real_time="guided")
    drawn = runs.act(
        runs.encode(seen),
        words,
        noise=start,
        decided=old,
        delay=2,
        unconditional=without,
        guidance=1.5,
    ).actions
    wanted, unwanted = velocity_of(seen, words, 2), velocity_of(seen, without, 2)

    def mixed(x, time):
        base = unwanted(x, time)
        return base + 1.5 * (wanted(x, time) - base)

    expected = lerobot_guided(mixed, start, old.expand(2, -1, -1), 2, 5.0)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)
