# SPDX-License-Identifier: Apache-2.0
"""The energy model against its description, and against cases that are known in closed form."""

import math

import pytest
import torch
from energy_reference import (
    SMALL,
    make_energy_batch,
    make_energy_model,
    reference_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.energy_config import EnergyConfig

FORMS = [
    {"form": "tokens", "pooling": "mean"},
    {"form": "tokens", "pooling": "attention"},
    {"form": "global", "pooling": "mean"},
    {"form": "tokens", "pooling": "mean", "bounded": False},
    {"form": "global", "pooling": "mean", "bounded": False},
]
every_form = pytest.mark.parametrize("changes", FORMS, ids=lambda c: "-".join(map(str, c.values())))


# --- against every pair on its own ------------------------------------------------------------


@every_form
def test_energies_and_gradients_are_those_of_every_pair_on_its_own(changes):
    model = make_energy_model(**changes)
    reference = reference_of(model)
    hidden, ignore, actions = make_energy_batch()
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))

    ours = [hidden.clone().requires_grad_(), actions.clone().requires_grad_()]
    theirs = [hidden.double().requires_grad_(), actions.double().requires_grad_()]
    energies = model.swapped(model.context(ours[0], ignore), ours[1])
    expected = reference(theirs[0], ignore, theirs[1])
    assert energies.shape == (3, 4)
    assert energies.dtype == torch.float32
    assert_close(energies.double(), expected, rtol=0, atol=1e-5)
    assert expected.std() > 2e-3  # else all models would agree

    (energies * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, parameter in reference.named_parameters():
        assert_close(gradients[name].double(), parameter.grad, rtol=1e-5, atol=1e-5, msg=name)
        # Of keys' biases there is none: they shift all scores of a query alike.
        assert parameter.grad.abs().max() > 1e-6, name
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    changes=st.sampled_from(FORMS),
    rows=st.integers(1, 4),
    chunks=st.integers(1, 4),
    steps=st.integers(1, 6),
    length=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_it_is_so_for_all_sizes(changes, rows, chunks, steps, length, seed):
    model = make_energy_model(seed, **changes)
    hidden, ignore, actions = make_energy_batch(rows, chunks, steps, length, seed)
    with torch.no_grad():
        energies = model.swapped(model.context(hidden, ignore), actions)
        expected = reference_of(model)(hidden, ignore, actions)
    assert_close(energies.double(), expected, rtol=0, atol=1e-5)


@every_form
def test_each_context_may_have_chunks_of_its_own(changes):
    model = make_energy_model(**changes)
    hidden, ignore, actions = make_energy_batch(rows=3, chunks=6)
    with torch.no_grad():
        context = model.context(hidden, ignore)
        pairs = actions.view(3, 2, *actions.shape[1:])
        own = model.energies(context, pairs)
        expected = reference_of(model)(hidden, ignore, actions)
        single = model(hidden, actions[::2], ignore)
        shared = model.energies(context, actions[None])
        repeated = model.energies(context, actions.expand(3, -1, -1, -1))
    for row in range(3):
        assert_close(own[row].double(), expected[row, 2 * row : 2 * row + 2], rtol=0, atol=1e-5)
    assert_close(single, own[:, 0])
    assert_close(shared, repeated)


@every_form
def test_without_a_mask_everything_is_looked_at(changes):
    model = make_energy_model(**changes)
    hidden, ignore, actions = make_energy_batch()
    with torch.no_grad():
        energies = model.swapped(model.context(hidden), actions)
        assert_close(
            energies, model.swapped(model.context(hidden, torch.zeros_like(ignore)), actions)
        )
        assert not torch.allclose(
            energies, model.swapped(model.context(hidden, ignore), actions), atol=1e-3
        )


def test_positions_alone_give_what_sines_and_cosines_of_the_paper_give():
    model = make_energy_model(hidden=32, bounded=False)
    for parameter in model.action_linear.fc2.parameters():
        parameter.data.zero_()
    with torch.no_grad():  # all that is left of 50 equal actions is where they are
        hidden, ignore, _ = make_energy_batch(rows=2)
        actions = torch.ones(1, 50, SMALL.action_dim)
        context = model.context(hidden, ignore)
        assert_close(
            model.swapped(context, actions).double(),
            reference_of(model)(hidden, ignore, actions),
            rtol=0,
            atol=1e-5,
        )
        first = model.swapped(context, actions[:, :1])
        assert (model.swapped(context, actions) - first).abs().min() > 1e-3


# --- the mask ---------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("garbage", [0.0, -7.0, 1e4, 1e15])
def test_what_is_ignored_changes_nothing(changes, garbage):
    model = make_energy_model(**changes)
    hidden, ignore, actions = make_energy_batch()
    other = torch.where(ignore[..., None], garbage * torch.randn_like(hidden), hidden)
    assert not torch.equal(hidden, other)
    with torch.no_grad():
        energies = model.swapped(model.context(hidden, ignore), actions)
        assert_close(model.swapped(model.context(other, ignore), actions), energies)


@every_form
def test_padding_changes_nothing(changes):
    model = make_energy_model(**changes)
    hidden, _, actions = make_energy_batch()
    padded = torch.cat([hidden, torch.zeros(3, 9, SMALL.state_dim)], dim=1)
    ignore = torch.arange(padded.shape[1]).expand(3, -1) >= hidden.shape[1]
    with torch.no_grad():
        energies = model.swapped(model.context(hidden), actions)
        assert_close(model.swapped(model.context(padded, ignore), actions), energies)


def test_what_is_ignored_gets_no_gradient():
    model = make_energy_model()
    hidden, ignore, actions = make_energy_batch()
    hidden.requires_grad_()
    model.swapped(model.context(hidden, ignore), actions).sum().backward()
    assert (hidden.grad[ignore] == 0).all()
    assert (hidden.grad[~ignore] != 0).any(dim=-1).all()


@every_form
def test_a_row_that_ignores_everything_is_named(changes):
    model = make_energy_model(**changes)
    hidden, ignore, actions = make_energy_batch()
    ignore[1:] = True
    words = "row 1 ignores its whole context, expected something to look at"
    with pytest.raises(ValueError, match=words):
        model(hidden, actions[:3], ignore)


# --- known in closed form ---------------------------------------------------------------------


@every_form
def test_a_head_that_says_nothing_gives_the_middle_of_the_range(changes):
    model = make_energy_model(**changes)
    for parameter in model.prediction_head.fc2.parameters():
        parameter.data.zero_()
    hidden, ignore, actions = make_energy_batch()
    middle = 1.1 if model.config.bounded else 0.0
    with torch.no_grad():
        energies = model.swapped(model.context(hidden, ignore), actions)
    assert_close(energies, torch.full((3, 4), middle))


@pytest.mark.parametrize(
    ("head", "energy"),
    [(-1e4, 0.1), (1e4, 2.1), (2 * math.log(3), 1.6), (-2 * math.log(3), 0.6)],
)
def test_a_head_that_says_one_thing_gives_a_known_energy(head, energy):
    model = make_energy_model()
    model.prediction_head.fc2.weight.data.zero_()
    model.prediction_head.fc2.bias.data.fill_(head)
    hidden, ignore, actions = make_energy_batch()
    with torch.no_grad():
        assert_close(model(hidden, actions[:3], ignore), torch.full((3,), energy))


def test_in_a_context_of_one_vector_only_the_global_form_sees_the_actions():
    for form, spread in (("tokens", False), ("global", True)):
        model = make_energy_model(form=form)
        hidden, _, actions = make_energy_batch(length=1)
        with torch.no_grad():
            energies = model.swapped(model.context(hidden), actions)
        assert (energies.std(dim=1) > 1e-3).all() == spread
        assert (energies.std(dim=0) > 1e-3).all()


def test_a_batch_of_32_full_contexts_takes_a_26th_of_the_operations():
    rows, length, width, steps = 32, 600, 4096, 8
    with FakeTensorMode():  # which computes nothing
        model = EnergyModel(EnergyConfig(width, 7)).eval()
        model.checks = False
        hidden, actions = torch.empty(rows, length, width), torch.empty(rows, steps, 7)
        factored = operations(lambda: model.swapped(model.context(hidden), actions))
        alone = operations(lambda: model(hidden, actions))
    assert factored == pytest.approx(148e9, rel=0.01)
    assert rows * alone == pytest.approx(3906e9, rel=0.01)  # the naive form does that 32 times


def operations(call):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


# --- numbers ----------------------------------------------------------------------------------


def test_it_computes_in_float32_whatever_autocast_says():
    model = make_energy_model()
    hidden, ignore, actions = make_energy_batch(chunks=3)
    hidden, actions = hidden.bfloat16(), actions.bfloat16()
    expected = model(hidden.float(), actions.float(), ignore)
    gradient = torch.autograd.grad(expected.sum(), model.cross.in_proj_weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        energies = model(hidden, actions, ignore)
        assert (model.cross.out_proj(torch.ones(1, 16))).dtype == torch.bfloat16
    assert energies.dtype == torch.float32
    assert torch.equal(energies, expected)
    assert torch.equal(torch.autograd.grad(energies.sum(), model.cross.in_proj_weight)[0], gradient)


def test_dropout_is_on_the_actions_in_training_alone():
    model = make_energy_model(dropout=0.5)
    hidden, _, actions = make_energy_batch(chunks=3)
    exact = model(hidden, actions)
    assert torch.equal(model(hidden, actions), exact)
    model.train()
    assert not torch.allclose(model(hidden, actions), model(hidden, actions), atol=1e-3)
    assert torch.equal(model.context(hidden).features, model.eval().context(hidden).features)
    kept = make_energy_model(dropout=0.0)
    assert torch.equal(kept.train()(hidden, actions), exact)


PLACES = {
    "state_linear.fc2.bias": "features of the context",
    "action_linear.fc1.weight": "features of the actions",
    "cross.out_proj.bias": "output of the attention",
    "prediction_head.fc2.bias": "output of the head",
}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("weight", "name"), PLACES.items())
def test_the_first_tensor_that_is_not_finite_is_named(weight, name, value):
    model = make_energy_model()
    hidden, ignore, actions = make_energy_batch(chunks=3)
    model.get_parameter(weight).data.view(-1)[0] = value
    with pytest.raises(FloatingPointError, match=f"^{name} of the energy model: "):
        model(hidden, actions, ignore)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_comes_in_and_is_not_finite_is_named_with_its_place(value):
    model = make_energy_model()
    hidden, ignore, actions = make_energy_batch(chunks=3)
    broken = hidden.clone()
    broken[2, 1, 0] = value
    words = rf"^hidden states of the energy model: {value} at \(2, 1, 0\), expected finite numbers"
    with pytest.raises(FloatingPointError, match=words):
        model(broken, actions, ignore)
    actions[1, 4, 2] = value
    words = rf"^actions of the energy model: {value} at \(1, 0, 4, 2\), expected finite numbers"
    with pytest.raises(FloatingPointError, match=words):
        model(hidden, actions, ignore)


def test_checks_can_be_left_out():
    model = make_energy_model()
    model.checks = False
    hidden, _, actions = make_energy_batch(chunks=3)
    hidden[1] = torch.nan
    energies = model(hidden, actions)
    assert energies.isfinite().tolist() == [True, False, True]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_is_traced_does_no_checks_and_says_the_same():
    model = make_energy_model()
    hidden, ignore, actions = make_energy_batch(chunks=3)
    traced = torch.jit.trace(model, (hidden, actions, ignore))
    with torch.no_grad():
        assert_close(traced(hidden, actions, ignore), model(hidden, actions, ignore))
        assert traced(hidden * torch.nan, actions, ignore).isnan().all()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "actions", "ignore", "words"),
    [
        ((2, 7, 11), (2, 5, 3), None, r"hidden \(2, 7, 11\), expected \(B, S, 12\)"),
        ((7, 12), (2, 5, 3), None, r"hidden \(7, 12\), expected \(B, S, 12\)"),
        ((2, 0, 12), (2, 5, 3), None, r"hidden \(2, 0, 12\), expected \(B, S, 12\)"),
        ((2, 7, 12), (3, 5, 3), None, r"actions \(3, 1, 5, 3\), expected \(2 or 1, K, T, 3\)"),
        ((2, 7, 12), (2, 5, 4), None, r"actions \(2, 1, 5, 4\), expected \(2 or 1, K, T, 3\)"),
        ((2, 7, 12), (2, 0, 3), None, r"actions \(2, 1, 0, 3\), expected \(2 or 1, K, T, 3\)"),
        ((2, 7, 12), (2, 5, 3), torch.zeros(2, 12, dtype=torch.bool), r"ignore \(2, 12\) of"),
        ((2, 7, 12), (2, 5, 3), torch.zeros(2, 7), r"ignore \(2, 7\) of torch.float32, expected"),
    ],
)
def test_what_does_not_fit_is_named(hidden, actions, ignore, words):
    with pytest.raises(ValueError, match=words):
        make_energy_model()(torch.zeros(hidden), torch.zeros(actions), ignore)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state_dim": 0}, "state_dim is 0, expected at least 1"),
        ({"action_dim": -1}, "action_dim is -1, expected at least 1"),
        ({"heads": 0}, "heads is 0, expected at least 1"),
        ({"hidden": 18}, "hidden is 18, expected it even and a multiple of 4 heads"),
        ({"hidden": 15, "heads": 3}, "hidden is 15, expected it even and a multiple of 3 heads"),
        ({"dropout": 1.0}, "dropout is 1.0, expected from 0 to less than 1"),
        ({"dropout": math.nan}, "dropout is nan, expected from 0 to less than 1"),
        ({"form": "film"}, "form is 'film', expected tokens or global"),
        ({"pooling": "max"}, "pooling is 'max', expected mean or attention"),
        ({"form": "global", "pooling": "attention"}, "has one energy for a chunk: .* mean"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make_energy_model(**changes)
