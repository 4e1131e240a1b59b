# SPDX-License-Identifier: Apache-2.0
"""The engine's chunks are those of the plain form of the same model."""

import copy
import re

import pytest
import torch
from engine_samples import config, engine, noise, normal, pictures, plain, prompt, tokens, views

EXACTLY = {"atol": 1e-5, "rtol": 0.0}


@pytest.mark.parametrize("bucket", [1, 16, 64])
@pytest.mark.parametrize("length", [1, 15, 16, 17])
def test_prompts_of_every_length_in_every_bucket(bucket, length):
    seen, words, start = pictures(2), prompt(length), noise()
    runs = engine(bucket=bucket)
    drawn = runs.act(runs.encode(seen), words, noise=start)
    expected = plain().sample_actions(views(seen), tokens(words), start)
    torch.testing.assert_close(drawn.actions, expected, **EXACTLY)
    assert drawn.hidden is None


@pytest.mark.parametrize(("count", "absent"), [(1, 0), (1, 2), (2, 1), (3, 0)])
def test_absent_cameras_are_left_out_where_the_plain_form_hides_them(count, absent):
    seen, words, start = pictures(count), prompt(9), noise()
    runs = engine()
    drawn = runs.act(runs.encode(seen), words, noise=start)
    expected = plain().sample_actions(views(seen, absent=absent), tokens(words), start)
    torch.testing.assert_close(drawn.actions, expected, **EXACTLY)


@pytest.mark.parametrize(("candidates", "steps"), [(1, 1), (1, 10), (2, 3), (5, 1)])
@pytest.mark.parametrize("bucket", [1, 8])
def test_candidates_over_one_prefix_are_a_batch_of_the_plain_form(candidates, steps, bucket):
    seen, words, start = pictures(2), prompt(9), noise(candidates)
    runs = engine(steps=steps, bucket=bucket)
    drawn = runs.act(runs.encode(seen), words, noise=start)
    expected = plain().sample_actions(
        views(seen, candidates), tokens(words, candidates), start, steps=steps
    )
    torch.testing.assert_close(drawn.actions, expected, **EXACTLY)
    assert drawn.actions.dtype == torch.float32


@pytest.mark.parametrize("given", [1, 3, 7])
@pytest.mark.parametrize("bucket", [1, 8])
def test_decided_actions_are_clean_and_stay_as_they_are(given, bucket):
    seen, words, start, decided = pictures(2), prompt(9), noise(2), normal(given, 8)
    runs = engine(bucket=bucket)
    drawn = runs.act(runs.encode(seen), words, noise=start, decided=decided)
    expected = plain().sample_actions(
        views(seen, 2), tokens(words, 2), start, decided=decided.expand(2, -1, -1)
    )
    torch.testing.assert_close(drawn.actions, expected, **EXACTLY)
    assert torch.equal(drawn.actions[:, :given], decided.expand(2, -1, -1))


def test_only_the_actions_before_the_delay_are_taken_as_given():
    seen, words, start, old = pictures(1), prompt(5), noise(), normal(6, 8)
    runs = engine()
    features = runs.encode(seen)
    expected = runs.act(features, words, noise=start, decided=old[:2]).actions
    assert torch.equal(
        runs.act(features, words, noise=start, decided=old, delay=2).actions, expected
    )
    undecided = runs.act(features, words, noise=start).actions
    none = runs.act(features, words, noise=start, decided=old, delay=0).actions
    torch.testing.assert_close(none, undecided, **EXACTLY)


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_several_heads_of_keys_and_values(kv_heads):
    seen, words, start = pictures(2), prompt(9), noise(2)
    runs = engine(plain(kv_heads), bucket=4)
    drawn = runs.act(runs.encode(seen), words, noise=start)
    expected = plain(kv_heads).sample_actions(views(seen, 2), tokens(words, 2), start)
    torch.testing.assert_close(drawn.actions, expected, **EXACTLY)


@pytest.mark.parametrize("bucket", [1, 8])
@pytest.mark.parametrize("unconditional", [None, prompt(12, seed=1)])
def test_hidden_states_of_the_prefix_are_the_last_layers(bucket, unconditional):
    seen, words = pictures(2), prompt(9)
    runs = engine(hidden=True, bucket=bucket)
    drawn = runs.act(runs.encode(seen), words, unconditional=unconditional)
    model, given = plain(), views(seen)
    with torch.no_grad():
        expected, _, _ = model.prefix(given, model.embed_pictures(given), tokens(words))
    torch.testing.assert_close(drawn.hidden, expected[0], **EXACTLY)


def test_asking_for_hidden_states_changes_no_action():
    seen, words, start = pictures(2), prompt(9), noise()
    with_hidden, without = engine(hidden=True), engine()
    features = without.encode(seen)
    torch.testing.assert_close(
        with_hidden.act(features, words, noise=start).actions,
        without.act(features, words, noise=start).actions,
        **EXACTLY,
    )


@pytest.mark.parametrize("bucket", [1, 32])
def test_bfloat16_points_the_same_way_as_float32(bucket):
    seen, words, start = pictures(3), prompt(20), noise(4)
    runs = engine(dtype="bfloat16", bucket=bucket)
    drawn = runs.act(runs.encode(seen), words, noise=start).actions
    expected = plain().sample_actions(views(seen, 4), tokens(words, 4), start)
    assert torch.cosine_similarity(drawn.flatten(), expected.flatten(), dim=0) >= 0.999
    assert drawn.dtype == torch.float32


def mixed(raised: str | None = None):
    """As checkpoints are loaded in bfloat16: what computes in float32 keeps it.

    Parameters whose names contain ``raised`` grow by less than bfloat16 tells apart.
    """
    model = copy.deepcopy(plain())
    for name, parameter in model.named_parameters():
        parameter.data = parameter.bfloat16()
        if re.search(r"language_model.*norm|dense|time_mlp|action_out_proj", name):
            parameter.data = parameter.float()
            if raised and raised in name:
                parameter.data *= 1 + 2**-10
                assert torch.equal(parameter.bfloat16(), (parameter / (1 + 2**-10)).bfloat16())
    return model


@pytest.mark.parametrize(
    "part", ["language_model.layers.1.input_layernorm", "dense", "time_mlp_in", "action_out_proj"]
)
def test_in_bfloat16_what_computes_in_float32_keeps_its_precision(part):
    seen, words, start = pictures(2), prompt(9), noise()
    drawn = []
    for model in (mixed(), mixed(raised=part)):
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        runs = engine(model, dtype="bfloat16")
        drawn.append(runs.act(runs.encode(seen), words, noise=start).actions)
        for name, parameter in runs._model.named_parameters():
            assert parameter.dtype == before[name].dtype
            assert torch.equal(parameter, before[name])
    assert not torch.equal(*drawn)


def test_a_model_of_mixed_types_runs_in_float32():
    seen, words, start = pictures(2), prompt(9), noise()
    runs = engine(mixed())
    drawn = runs.act(runs.encode(seen), words, noise=start).actions
    expected = mixed().float().sample_actions(views(seen), tokens(words), start)
    torch.testing.assert_close(drawn, expected, **EXACTLY)


def test_calls_leave_no_traces_in_later_ones():
    runs = engine(bucket=16, hidden=True)
    long = (pictures(3), prompt(16), noise(1), normal(3, 8))
    short = (pictures(1, seed=5), prompt(3, seed=5), noise(1, seed=5), None)

    def call(seen, words, start, decided):
        drawn = runs.act(runs.encode(seen), words, noise=start, decided=decided)
        return drawn.actions, drawn.hidden

    before, other, after = call(*long), call(*short), call(*long)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    fresh = engine(bucket=16)
    alone = fresh.act(fresh.encode(short[0]), short[1], noise=short[2]).actions
    torch.testing.assert_close(other[0], alone, **EXACTLY)


def test_noise_follows_from_the_seed():
    seen, words = pictures(1), prompt(5)
    runs = [engine(seed=seed, candidates=3) for seed in (1, 1, 2)]
    first, same, other = (each.act(each.encode(seen), words).actions for each in runs)
    assert first.shape == (3, config().chunk, config().max_action_dim)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    again = runs[0].act(runs[0].encode(seen), words).actions
    assert not torch.equal(first, again)


def test_warming_changes_no_result():
    seen, words = pictures(2), prompt(9)
    cold, warm = engine(bucket=8), engine(bucket=8)
    warm.warm(2, [9, 20], decided=True, unconditional=True)
    warm.warm(2, [9], texts=[[3, 4]])
    expected = cold.act(cold.encode(seen), words).actions
    assert torch.equal(warm.act(warm.encode(seen), words).actions, expected)


def test_the_model_that_was_taken_over_lies_in_memory_once_and_still_runs():
    model = engine()._model
    attention = model.language.layers[0].self_attn
    storages = {
        part.weight.untyped_storage().data_ptr()
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    }
    assert len(storages) == 1
    seen, words, start = pictures(1), prompt(5), noise()
    torch.testing.assert_close(
        model.sample_actions(views(seen), tokens(words), start),
        plain().sample_actions(views(seen), tokens(words), start),
        **EXACTLY,
    )


@pytest.mark.slow
def test_compiled_is_equal():
    seen, words, start, old = pictures(2), prompt(9), noise(2), normal(3, 8)
    runs, model = engine(compile=True), plain()
    features = runs.encode(seen)
    drawn = runs.act(features, words, noise=start).actions
    expected = model.sample_actions(views(seen, 2), tokens(words, 2), start)
    torch.testing.assert_close(drawn, expected, **EXACTLY)
    drawn = runs.act(features, words, noise=start, decided=old).actions
    given = old.expand(2, -1, -1)
    expected = model.sample_actions(views(seen, 2), tokens(words, 2), start, decided=given)
    torch.testing.assert_close(drawn, expected, **EXACTLY)
    eager = engine()
    assert runs.plan(features, words) == eager.plan(features, words)
    texts = [[3], [4, 5]]
    torch.testing.assert_close(
        runs.score(features, words, texts), eager.score(features, words, texts)
    )
