# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_samples import CHUNK

from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05_batch import Pi05Output
from vla_nodes.models.pi05_config import tiny
from vla_nodes.models.scaling import Scaling
from vla_nodes.models.tokenizer import Tokenizer
from vla_training.data.errors import DataError
from vla_training.data.loading.collation import Batch
from vla_training.policy_inputs.policy_batches import PolicyBatches
from vla_training.recipes.policy_objective import PolicyObjective
from vla_training.recipes.policy_settings import DataSettings, ModelSettings, PolicySettings
from vla_training.tokens.fast import FastTokenizer

LOW, HIGH = np.array([-1.0, 0.0, 0.5]), np.array([1.0, 4.0, 2.5])


@pytest.fixture(scope="module")
def batches(sample: Path) -> PolicyBatches:
    scaling = Scaling(("pan", "lift", "grip"), "quantile", tuple(LOW), tuple(HIGH))
    state = Scaling(("pan", "lift"), "quantile", tuple(LOW[:2]), tuple(HIGH[:2]))
    return PolicyBatches(
        config=replace(tiny(), max_delay=4),
        tokenizer=Tokenizer.read(sample / "tokenizer"),
        normalization=Normalization(state, scaling),
        cameras=("front", "wrist", "top"),
        plans=True,
        acts=True,
        flow_samples=2,
    )


def batch_of(count: int, **changes) -> Batch:
    rng = np.random.default_rng(0)
    values = {
        "images": {
            "wrist": torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), np.uint8)),
            "front": torch.full((count, 3, 24, 48), 255, dtype=torch.uint8),
        },
        "image_masks": {"wrist": torch.ones(count).bool(), "front": torch.arange(count) % 2 == 0},
        "state": torch.from_numpy(rng.uniform(0, 1, (count, 2))).float(),
        "actions": torch.from_numpy(rng.uniform(0, 1, (count, CHUNK, 3))).float(),
        "action_is_pad": torch.arange(CHUNK) > torch.arange(count)[:, None],
        "task": ("stack the cups",) * count,
        "subtask": ("put_it down ",) * count,
        "return_to_go": torch.zeros(count),
        "advantage": torch.zeros(count),
        "positive": torch.full((count,), -1),
        "weight": torch.ones(count),
        "outcome": torch.ones(count).long(),
        "episode_index": torch.zeros(count).long(),
        "frame_index": torch.arange(count),
        **changes,
    }
    return Batch(**values)


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, k)) for k in range(count)]


def texts(batches, tokens):
    rows = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    return rows, [batches.tokenizer.decode(row) for row in rows]


def test_texts_are_those_that_are_written_down_here(batches):
    state = torch.tensor([[0.0, 0.0], [1.0, 3.0]])  # normalised: (0, -1) and (1, 0.5)
    made, _ = batches.make(batch_of(2, state=state), rngs(2), "cpu")
    numbers = ["128 0 128 128 128 128 128 128", "255 192 128 128 128 128 128 128"]
    rows, found = texts(batches, made.planner)
    assert found == [f"Task: stack the cups, State: {n};\nSubtask: " for n in numbers]
    assert all(row[0] == batches.tokenizer.bos_id for row in rows)
    rows, found = texts(batches, made.actor)
    assert found == [f"Task: put it down, State: {n};\nAction: " for n in numbers]
    assert all(row[0] == batches.tokenizer.bos_id for row in rows)
    rows, found = texts(batches, made.target)
    assert found == ["put_it down "] * 2  # as known subtasks are scored: as they are
    assert all(row[-1] == batches.tokenizer.eos_id for row in rows)
    assert all(batches.tokenizer.bos_id not in row for row in rows)


def test_a_robot_s_own_numbers_alone_where_the_model_wants_it_so(batches):
    own = replace(batches, config=replace(batches.config, pad_state=False))
    made, _ = own.make(batch_of(1, state=torch.tensor([[0.0, 0.0]])), rngs(1), "cpu")
    _, (prompt,) = texts(own, made.planner)
    assert prompt == "Task: stack the cups, State: 128 0;\nSubtask: "


def test_actions_are_scaled_and_padded(batches):
    batch = batch_of(3)
    made, _ = batches.make(batch, rngs(3), "cpu")
    expected = np.zeros((3, CHUNK, 8))
    expected[..., :3] = 2 * (batch.actions.double().numpy() - LOW) / (HIGH - LOW) - 1
    np.testing.assert_allclose(made.action.actions.numpy(), expected, atol=1e-6)
    assert made.action.actions.dtype == torch.float32
    assert made.action.dims == 3
    assert torch.equal(made.action.is_pad, batch.action_is_pad)


def test_pictures_are_in_the_order_of_the_cameras_and_absent_ones_masked(batches):
    batch = batch_of(2)
    made, _ = batches.make(batch, rngs(2), "cpu")
    assert made.views.pixels.shape == (2, 3, 3, 32, 32)
    assert made.views.mask.tolist() == [[True, True, False], [False, True, False]]
    front, wrist, top = made.views.pixels.unbind(1)
    assert (front[:, :, 8:24] == 1.0).all()  # 24 x 48 is fitted as 16 x 32
    assert (front[:, :, :8] == -1.0).all()
    torch.testing.assert_close(wrist, batch.images["wrist"] / 127.5 - 1.0)
    assert (top == -1.0).all()


def test_delay_noise_and_times_are_spread_as_they_should_be(batches):
    many = 4000
    made, draws = replace(batches, plans=False).make(batch_of(many), rngs(many), "cpu")
    counts = np.bincount(made.action.delay.numpy(), minlength=5)
    assert len(counts) == 5
    np.testing.assert_allclose(counts / many, 0.2, atol=0.03)
    noise = draws.noise.numpy()
    assert noise.shape == (2 * many, CHUNK, 8)
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert abs(np.mean(noise[:many] * noise[many:])) < 0.01
    times = draws.times.numpy().astype(float)
    assert times.shape == (2 * many,)
    for level in (0.1, 0.3, 0.5, 0.9):  # Beta(1.5, 1) has the distribution function x^1.5
        share = np.mean(times <= level)
        assert share == pytest.approx(((level - 0.001) / 0.999) ** 1.5, abs=0.02)


def test_without_delays_none_is_given(batches):
    plain = replace(batches, config=replace(batches.config, max_delay=0))
    assert plain.make(batch_of(2), rngs(2), "cpu")[0].action.delay is None


def test_what_an_item_draws_does_not_depend_on_its_neighbours(batches):
    whole, draws = batches.make(batch_of(4), rngs(4), "cpu")
    one = batch_of(4)
    part = Batch(
        **{
            name: {c: t[2:3] for c, t in value.items()} if isinstance(value, dict) else value[2:3]
            for name, value in vars(one).items()
        }
    )
    alone, own = batches.make(part, rngs(4)[2:3], "cpu")
    assert torch.equal(alone.action.delay, whole.action.delay[2:3])
    assert torch.equal(own.noise, draws.noise.unflatten(0, (2, 4))[:, 2])
    assert torch.equal(own.times, draws.times.unflatten(0, (2, 4))[:, 2])


def told(batches, labels, seed=0):
    batch = batch_of(len(labels), positive=torch.tensor(labels))
    made, _ = batches.make(batch, rngs(len(labels), seed), "cpu")
    ends = []
    for text in texts(batches, made.actor)[1]:
        head = text.split(", State:")[0]
        ends.append(head.split("\nAdvantage: ")[1] if "Advantage" in head else "")
    return ends


def test_the_advantage_is_told_in_seven_of_ten_prompts(batches):
    found = told(batches, [1, 0] * 1000)
    for label, word in ((0, "positive"), (1, "negative")):
        assert set(found[label::2]) == {word, ""}
        assert found[label::2].count(word) / 1000 == pytest.approx(0.7, abs=0.05)


def test_the_same_items_are_told_again_and_unlabelled_ones_never(batches):
    assert told(batches, [1] * 50, seed=3) == told(batches, [1] * 50, seed=3)
    assert told(batches, [1] * 50, seed=3) != told(batches, [1] * 50, seed=4)
    assert set(told(batches, [-1] * 50)) == {""}
    assert set(told(replace(batches, advantage_dropout=1.0), [1] * 50)) == {""}


def test_a_planner_alone_gets_nothing_to_act_on(batches):
    made, draws = replace(batches, acts=False).make(batch_of(2), rngs(2), "cpu")
    assert made.actor is None
    assert made.action is None
    assert draws is None


def test_an_actor_alone_takes_the_task_where_there_is_no_subtask(batches):
    acting = replace(batches, plans=False)
    made, _ = acting.make(batch_of(2, subtask=("", "reach")), rngs(2), "cpu")
    assert made.planner is None
    assert made.target is None
    found = texts(batches, made.actor)[1]
    assert [text.split(",")[0] for text in found] == ["Task: stack the cups", "Task: reach"]


def test_the_planner_writes_action_tokens_behind_the_subtask(batches, sample):
    fast = FastTokenizer.read(sample / "fast")
    vocabulary = 2048
    wide = replace(batches, fast=fast, config=replace(batches.config, vocabulary=vocabulary))
    batch = batch_of(2, subtask=("reach", "put it down"))
    made, _ = wide.make(batch, rngs(2), "cpu")
    chunks = 2 * (batch.actions.double().numpy() - LOW) / (HIGH - LOW) - 1
    for k, row in enumerate(texts(wide, made.target)[0]):
        actions = [vocabulary - 129 - token for token in fast.encode(chunks[k])]
        encode = wide.tokenizer.encode
        expected = [*encode(batch.subtask[k]), *encode("\nAction: "), *actions, *encode("|")]
        assert row == [*expected, wide.tokenizer.eos_id]


def test_texts_that_are_too_long_are_named(batches):
    endless = "stack the cups " * 40
    with pytest.raises(DataError, match=r"the prompt 'Task: stack the cups.* expected at most"):
        batches.make(batch_of(1, task=(endless,)), rngs(1), "cpu")
    with pytest.raises(DataError, match=r"subtask 'stack the cups stack.* at most 16"):
        batches.make(batch_of(1, subtask=(endless,)), rngs(1), "cpu")
    limit = batches.config.max_subtask_tokens
    fits = " ".join(["put"] * (limit - 1))
    assert len(batches.tokenizer.encode(fits)) == limit - 1
    batches.make(batch_of(1, subtask=(fits,)), rngs(1), "cpu")


def test_actions_count_by_their_weight_and_texts_do_not(batches):
    data = DataSettings(dataset=(Path("data"),), weigh=True)
    weighed = PolicySettings("joint", Path("out"), data, ModelSettings(tokenizer=Path("t")))
    plain = replace(weighed, data=replace(data, weigh=False))
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(8, CHUNK, 32, generator=generator)  # two samples of four items
    texts = torch.rand(4, 5, generator=generator)

    def model(*_args, **_options):
        return Pi05Output(torch.zeros(()), texts, actions)

    given = batch_of(4, weight=torch.tensor([2.0, 0.0, torch.nan, 0.5]))
    found = {}
    for name, settings in (("weighed", weighed), ("plain", plain)):
        objective = PolicyObjective(settings, batches)
        prepared = objective.prepare(given, rngs(4), torch.device("cpu"))
        found[name] = objective.losses(model, prepared.inputs), prepared.counts
    (losses, counts), (plainly, plain_counts) = found["weighed"], found["plain"]
    # What has no weight counts as the mean of those that have one.
    expected = sum(w * actions[[k, 4 + k]].sum() for k, w in enumerate([2.0, 0.0, 1.0, 0.5]))
    torch.testing.assert_close(losses["action"], expected)
    torch.testing.assert_close(plainly["action"], actions.sum())
    assert torch.equal(losses["text"], plainly["text"])
    assert all(torch.equal(counts[name], plain_counts[name]) for name in counts)
