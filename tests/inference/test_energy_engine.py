# SPDX-License-Identifier: Apache-2.0
"""Energies from the engine are those of the energy model on the plain policy's hidden states."""

import copy

import pytest
import torch
from engine_samples import config, engine, noise, normal, pictures, plain, prompt, tokens, views
from test_engine_capture import Recorded

from vla_nodes.inference.engine import EngineOptions, Pi05Engine
from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_config import EnergyConfig

EXACTLY = {"atol": 1e-5, "rtol": 0.0}
ACTION = 6  # elements that the energy model takes, of the policy's 8
FORMS = [
    {},
    {"pooling": "attention"},
    {"form": "global"},
    {"bounded": False},
]


def energy_model(seed=0, **options):
    """Random, with a head so large that energies differ."""
    torch.manual_seed(seed)
    size = EnergyConfig(config().language.width, ACTION, hidden=32, heads=4, **options)
    model = EnergyModel(size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0).add_(0.1 * torch.randn_like(parameter))
    return model


def judging(energy=None, **options):
    """An engine with an energy model."""
    given = copy.deepcopy(energy or energy_model())
    return Pi05Engine(copy.deepcopy(plain()), EngineOptions(**options), given)


@torch.no_grad()
def expected(energy, seen, words, actions):
    """Energies (K,) over the plain form's hidden states."""
    model, given = plain(), views(seen)
    hidden, there, _ = model.prefix(given, model.embed_pictures(given), tokens(words))
    context = energy.context(hidden, ~there)
    return energy.swapped(context, actions[..., :ACTION])[0]


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("bucket", [1, 32])
@pytest.mark.parametrize("candidates", [1, 5])
def test_chunks_have_their_energies_in_the_plain_models_context(options, bucket, candidates):
    seen, words, start = pictures(2), prompt(9), noise(candidates)
    energy = energy_model(**options)
    runs = judging(energy, bucket=bucket)
    drawn = runs.act(runs.encode(seen), words, noise=start)
    without = engine(bucket=bucket)
    unjudged = without.act(without.encode(seen), words, noise=start)
    assert torch.equal(drawn.actions, unjudged.actions)
    assert unjudged.energies is None
    assert drawn.energies.shape == (candidates,)
    torch.testing.assert_close(
        drawn.energies, expected(energy, seen, words, drawn.actions), **EXACTLY
    )
    if candidates > 1:
        assert drawn.energies.max() - drawn.energies.min() > 1e-3


@pytest.mark.parametrize("lengths", [(9, 9), (9, 14), (14, 9)])
@pytest.mark.parametrize("bucket", [1, 32])
@pytest.mark.parametrize("options", [{}, {"form": "global"}])
def test_the_context_is_of_the_prompt_that_is_asked_for(lengths, bucket, options):
    seen, energy = pictures(2), energy_model(**options)
    words, without = prompt(lengths[0]), prompt(lengths[1], seed=1)
    runs = judging(energy, bucket=bucket)
    drawn = runs.act(runs.encode(seen), words, noise=noise(3), unconditional=without, guidance=2.5)
    there = expected(energy, seen, words, drawn.actions)
    torch.testing.assert_close(drawn.energies, there, **EXACTLY)
    again = runs.again(drawn)
    there = expected(energy, seen, words, again.actions)
    torch.testing.assert_close(again.energies, there, **EXACTLY)


@pytest.mark.parametrize("real_time", ["trained", "guided"])
@pytest.mark.parametrize("bucket", [1, 32])
def test_chunks_that_continue_another_are_judged_as_they_are_returned(real_time, bucket):
    seen, words, old = pictures(2), prompt(9), normal(5, 8)
    energy = energy_model()
    runs = judging(energy, bucket=bucket, real_time=real_time)
    drawn = runs.act(runs.encode(seen), words, noise=noise(2), decided=old, delay=3)
    for some in (drawn, runs.again(drawn)):
        if real_time == "trained":
            assert torch.equal(some.actions[:, :3], old[:3].expand(2, -1, -1))
        there = expected(energy, seen, words, some.actions)
        torch.testing.assert_close(some.energies, there, **EXACTLY)


@pytest.mark.parametrize("bucket", [1, 32])
@pytest.mark.parametrize("real_time", ["trained", "guided"])
@pytest.mark.parametrize("unconditional", [None, prompt(14, seed=1)])
def test_drawn_again_chunks_are_those_of_a_call_of_their_own(bucket, real_time, unconditional):
    seen, words, old = pictures(2), prompt(9), normal(5, 8)
    runs = judging(bucket=bucket, real_time=real_time)
    features = runs.encode(seen)
    asked = {"decided": old, "delay": 2, "unconditional": unconditional, "guidance": 1.5}
    first = runs.act(features, words, noise=noise(2), **asked)
    for count, seed in ((2, 5), (4, 6)):
        again = runs.again(first, noise(count, seed))
        alone = runs.act(features, words, noise=noise(count, seed), **asked)
        torch.testing.assert_close(again.actions, alone.actions, **EXACTLY)
        torch.testing.assert_close(again.energies, alone.energies, **EXACTLY)


def test_noise_goes_on_where_chunks_are_drawn_again():
    runs = judging(candidates=3)
    first = runs.act(runs.encode(pictures(1)), prompt(5))
    second = runs.again(first)
    third = runs.again(second)
    assert first.actions.shape == second.actions.shape == third.actions.shape
    assert not torch.equal(first.actions, second.actions)
    assert not torch.equal(second.actions, third.actions)


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("bucket", [1, 32])
def test_given_chunks_are_judged_padded_or_not(options, bucket):
    seen, words, chunks = pictures(2), prompt(9), normal(4, config().chunk, 8, seed=3)
    energy = energy_model(**options)
    runs = judging(energy, bucket=bucket)
    features = runs.encode(seen)
    there = expected(energy, seen, words, chunks)
    torch.testing.assert_close(runs.judge(features, words, chunks), there, **EXACTLY)
    bare = runs.judge(features, words, chunks[..., :ACTION].double())
    torch.testing.assert_close(bare, there, **EXACTLY)


def test_energies_follow_from_the_energy_models_elements_alone():
    runs = judging()
    features, chunks = runs.encode(pictures(1)), normal(1, config().chunk, 8)
    other = chunks.clone()
    other[..., ACTION:] = 1e6
    assert torch.equal(
        runs.judge(features, prompt(5), chunks), runs.judge(features, prompt(5), other)
    )


def test_in_bfloat16_the_energy_model_computes_in_float32():
    seen, words = pictures(2), prompt(9)
    energy = energy_model()
    runs = judging(energy, dtype="bfloat16", hidden=True)
    drawn = runs.act(runs.encode(seen), words, noise=noise(3))
    with torch.no_grad():
        context = energy.context(drawn.hidden[None].float())
        there = energy.swapped(context, drawn.actions[..., :ACTION])[0]
    assert drawn.energies.dtype == torch.float32
    torch.testing.assert_close(drawn.energies, there, **EXACTLY)


def test_energies_recorded_with_some_inputs_are_right_for_others():
    def results(runs, seed, length):
        features, words = runs.encode(pictures(2, seed)), prompt(length, seed)
        old, start = normal(5, 8, seed=seed), noise(2, seed)
        drawn = runs.act(features, words, noise=start)
        mixed = runs.act(
            features, words, noise=start, decided=old, delay=1, unconditional=prompt(9, 7)
        )
        both = (drawn, runs.again(drawn, noise(2, seed + 50)), mixed, runs.again(mixed, start))
        chunks = normal(3, config().chunk, 8, seed=seed)
        return [runs.judge(features, words, chunks), *(each.energies for each in both)]

    eager, replayed = judging(bucket=16), judging(bucket=16)
    replayed._run = Recorded()
    replayed._actor.energy.checks = False  # as on a GPU
    results(replayed, 0, 9)
    graphs = set(replayed._run._graphs)
    for seed, length in ((1, 14), (2, 3), (0, 9)):
        torch.testing.assert_close(
            results(replayed, seed, length), results(eager, seed, length), atol=1e-6, rtol=0.0
        )
    assert set(replayed._run._graphs) == graphs


@pytest.mark.parametrize("unconditional", [False, True])
def test_after_warming_nothing_is_left_to_record(unconditional):
    runs = judging(bucket=16, real_time="guided")
    runs._run = Recorded()
    runs._actor.energy.checks = False
    runs.warm(2, [16], decided=True, unconditional=unconditional, texts=[[3]])
    ready = set(runs._run._graphs)
    other = prompt(5) if unconditional else None
    features = runs.encode(pictures(2))
    for old in (None, normal(3, 8)):
        runs.again(runs.act(features, prompt(9), decided=old, unconditional=other))
    assert set(runs._run._graphs) == ready


def test_what_is_not_finite_is_named_and_never_judged():
    runs = judging()
    features = runs.encode(pictures(1))
    chunks = normal(2, config().chunk, 8)
    chunks[1, 3, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"actions .* nan at \(0, 1, 3, 2\)"):
        runs.judge(features, prompt(5), chunks)
    with pytest.raises(FloatingPointError, match="hidden"):
        runs.act(torch.full_like(features, torch.inf), prompt(5))


def test_an_energy_model_of_another_policy_is_refused():
    for sizes in ((64, 6), (config().language.width, 9)):
        other = EnergyModel(EnergyConfig(*sizes, hidden=8, heads=2))
        with pytest.raises(ValueError, match=f"hidden states of {sizes[0]} and actions of"):
            judging(other)


def test_what_cannot_be_judged_is_refused():
    runs, without = judging(), engine()
    features, words = runs.encode(pictures(1)), prompt(5)
    chunk = config().chunk
    for shape in ((chunk, 8), (0, chunk, 8), (1, chunk - 1, 8), (1, chunk, 5), (1, chunk, 9)):
        with pytest.raises(ValueError, match=r"expected \(K, 8, 6 to 8\)"):
            runs.judge(features, words, torch.zeros(shape))
    with pytest.raises(ValueError, match="no energy model"):
        without.judge(features, words, noise())
    with pytest.raises(ValueError, match="only with an energy model"):
        without.again(without.act(features, words))
    with pytest.raises(ValueError, match="noise"):
        runs.again(runs.act(features, words), noise()[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_on_a_gpu_energies_are_the_same_and_nothing_waits_for_the_device():
    here, there = judging(bucket=16), judging(bucket=16, device="cuda")
    start = noise(4)
    there.warm(2, [9])
    drawn = here.act(here.encode(pictures(2)), prompt(9), noise=start)
    pixels, first, second = pictures(2).cuda(), start.cuda(), noise(4, seed=1).cuda()
    there.again(there.act(there.encode(pixels), prompt(9), noise=first), second)  # captured
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = there.act(there.encode(pixels), prompt(9), noise=first)
        again = there.again(found, second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.energies.cpu(), drawn.energies, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        again.energies.cpu(), here.again(drawn, noise(4, seed=1)).energies, atol=1e-4, rtol=1e-4
    )
