# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretrained_samples import make_gemma, make_siglip, shaken
from recipe_samples import logged
from torch.nn import functional
from transformers import Gemma3ForCausalLM
from vqa_samples import coloured, write_llava

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.value_checkpoint import (
    load_value_model,
    read_value_checkpoint,
    write_value_checkpoint,
)
from vla_nodes.models.value_config import tiny
from vla_nodes.models.value_model import make_value_model
from vla_training.data.errors import DataError
from vla_training.data.vqa.batches import vqa_batch
from vla_training.data.vqa.llava import read_llava
from vla_training.data.vqa.questions import VqaItem
from vla_training.recipes import alignment
from vla_training.recipes.alignment import loop_of_epochs, train_alignment, vqa_loss
from vla_training.recipes.alignment_settings import AlignmentSettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.loop_settings import LoopSettings
from vla_training.recipes.pretrained import load_pretrained, pretrained_config
from vla_training.recipes.pretrained_tokenizer import gemma_tokenizer
from vla_training.tokens.fit_tokenizer import fit_tokenizer

TOKENIZER = fit_tokenizer(
    {"what colour is it", "is it blue", "red green blue yes no"}, set(), vocabulary=500
)
LOOP = LoopSettings(
    steps=100_000,
    decay=100_000,
    batch_size=8,
    accumulate=2,
    learning_rate=3e-3,
    warmup=2,
    ema=0.0,
    workers=0,
    log_every=1,
    validate_every=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Questions, SigLIP and Gemma. Not to be written to."""
    root = tmp_path_factory.mktemp("alignment")
    make_siglip(root / "siglip")
    make_gemma(root / "gemma")
    write_llava(root, coloured(9))
    return root


def settings(folder, out, **changes):
    given = {
        "questions": folder / "instruct.json",
        "pictures": folder / "pictures",
        "siglip": str(folder / "siglip"),
        "gemma": str(folder / "gemma"),
        "validation": 0.3,
        "epochs": 4.0,
        "loop": LOOP,
        **changes,
    }
    return AlignmentSettings(out=out, **given)


def stitched(history=1, seed=0):
    """With weights that make every part matter."""
    return shaken(make_value_model(replace(tiny("stitched"), history=history)), seed)


def items():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 3, 40, 32), dtype=torch.uint8, generator=generator)
    return [
        VqaItem(pictures[0], "what colour is it", "red"),
        VqaItem(pictures[1], "is <image> blue, or is it not", "no no no"),
        VqaItem(None, "is it blue", "yes"),
    ]


def test_the_loss_is_that_of_transformers_on_the_answer_alone():
    """One question at a time, without padding, by transformers' own language model and head."""
    model = stitched()
    theirs = Gemma3ForCausalLM(model.language.config).eval()
    theirs.model.load_state_dict(model.language.state_dict())
    theirs.tie_weights()
    expected, count = 0.0, 0
    with torch.no_grad():
        for item in items():
            batch = vqa_batch([item], TOKENIZER, model.config)
            ids = batch.ids[0]
            embeds = theirs.get_input_embeddings()(ids.clamp(max=model.config.vocabulary - 1))
            if item.image is not None:
                seen = model.vision(pixel_values=batch.pixels).last_hidden_state[0]
                embeds[ids == model.config.image_id] = model.projector(seen)
            logits = theirs(inputs_embeds=embeds[None]).logits[0]
            answer = [*TOKENIZER.encode(item.answer), TOKENIZER.eos_id]
            places = range(len(ids) - len(answer), len(ids))
            for place, token in zip(places, answer, strict=True):
                expected -= functional.log_softmax(logits[place - 1].double(), 0)[token].item()
            count += len(answer)
        loss, found = vqa_loss(model, vqa_batch(items(), TOKENIZER, model.config))
    assert found == count
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("history", [1, 3])
def test_the_loss_is_that_of_the_language_head_on_all_places(history):
    model = stitched(history)
    batch = vqa_batch(items(), TOKENIZER, model.config)
    with torch.no_grad():
        features = model.encode(batch.pixels)[:, None].expand(-1, history, -1, -1)
        logits = model.language_logits(features, batch.mask, batch.ids, batch.id_mask)
        labels = batch.ids.where(batch.target_mask, -100)[:, 1:]
        expected = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        loss, _ = vqa_loss(model, batch)
    torch.testing.assert_close(loss, expected)


def test_padding_changes_nothing():
    model = stitched()
    with torch.no_grad():
        alone = [vqa_loss(model, vqa_batch([i], TOKENIZER, model.config))[0] for i in items()]
        together, _ = vqa_loss(model, vqa_batch(items(), TOKENIZER, model.config))
        torch.testing.assert_close(together, torch.stack(alone).sum())
        batch = vqa_batch(items(), TOKENIZER, model.config)
        other = replace(batch, ids=batch.ids.where(batch.id_mask, 17))
        assert not torch.equal(other.ids, batch.ids)
        torch.testing.assert_close(vqa_loss(model, other)[0], together)


def test_earlier_frames_that_are_not_there_change_nothing():
    """What a question's picture is, a model with a history sees as its newest frame alone."""
    model = stitched(history=3)
    batch = vqa_batch(items()[:1], TOKENIZER, model.config)
    with torch.no_grad():
        seen = model.encode(batch.pixels)
        wild = torch.cat([torch.randn_like(seen), torch.randn_like(seen), seen])[None]
        hidden, valid = model.hidden(wild, batch.mask, batch.ids, batch.id_mask)
        logits = functional.linear(hidden, model.language.embed_tokens.weight)
        learnt = batch.target_mask[:, 1:]
        expected = functional.cross_entropy(
            logits[:, :-1][learnt], batch.ids[:, 1:][learnt], reduction="sum"
        )
        assert int(valid.sum()) == int(batch.id_mask.sum()) - 2 * model.config.image_tokens
        torch.testing.assert_close(vqa_loss(model, batch)[0], expected)


def test_the_answer_depends_on_picture_and_question():
    model = stitched()
    losses = set()
    for picture in (0, 255):
        for question in ("what colour is it", "is it blue"):
            image = torch.full((3, 32, 32), picture, dtype=torch.uint8)
            batch = vqa_batch([VqaItem(image, question, "red")], TOKENIZER, model.config)
            losses.add(round(vqa_loss(model, batch)[0].item(), 4))
    assert len(losses) == 4


def test_alignment_changes_the_projector_only(folder, tmp_path):
    done = train_alignment(settings(folder, tmp_path / "run"))
    assert "checkpoint: aligned, 6 of 6 steps" in done
    checkpoint = read_value_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.interface is None
    after = load_value_model(checkpoint).state_dict()
    names = (str(folder / "siglip"), str(folder / "gemma"))
    torch.manual_seed(LOOP.seed)
    model = make_value_model(pretrained_config("stitched", *names, tiny("stitched")))
    load_pretrained(model, *names)
    before = model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name in after if name.startswith("projector.")}
    assert checkpoint.tokenizer.size == gemma_tokenizer(names[1]).size


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    """A small checkpoint to begin from. Not to be written to."""
    root = tmp_path_factory.mktemp("beginning")
    for arch in ("stitched", "cross-attention"):
        model = shaken(make_value_model(tiny(arch)), 4)
        write_value_checkpoint(root / arch, model, model.config, None, TOKENIZER)
    return root


def test_the_loss_falls_and_the_best_is_kept(folder, beginning, tmp_path):
    out = tmp_path / "run"
    begin = {"siglip": None, "gemma": None, "init": str(beginning / "stitched")}
    loop = replace(LOOP, learning_rate=1e-2, accumulate=1)
    done = train_alignment(settings(folder, out, **begin, epochs=40.0, loop=loop))
    train, validation = (logged(out, f"{of}/questions") for of in ("train", "validation"))
    assert len(train) == 60
    # Of a language model that knows no language, little more than the usual answers is learnt.
    first, last = (sum(train[k] for k in steps) for steps in (range(1, 16), range(46, 61)))
    assert last < 0.97 * first
    assert min(validation.values()) < validation[4]
    model = load_value_model(read_value_checkpoint(out / "checkpoint"))
    assert f"{min(validation.values()):.4g}" in done
    # By the questions that were not learnt, which nothing else than the checkpoint's weights fit.
    _, held = read_llava(folder / "instruct.json", folder / "pictures").split(0, 0.3)
    batch = vqa_batch([held[k] for k in range(len(held))], TOKENIZER, model.config)
    with torch.no_grad():
        loss, count = vqa_loss(model, batch)
    assert (loss / count).item() == pytest.approx(min(validation.values()), rel=1e-4)


def test_a_resumed_alignment_is_the_uninterrupted_one(folder, beginning, tmp_path, monkeypatch):
    begin = {"siglip": None, "gemma": None, "init": str(beginning / "stitched")}
    loop = replace(LOOP, save_every=3, keep=9)
    whole = settings(folder, tmp_path / "whole", **begin, loop=loop)
    train_alignment(whole)
    parts = settings(folder, tmp_path / "parts", **begin, loop=loop)
    plain = alignment.vqa_loss
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 9:  # two parts a step, and a validation after the fourth
            raise RuntimeError("struck")
        return plain(*arguments)

    monkeypatch.setattr(alignment, "vqa_loss", interrupted)
    with pytest.raises(RuntimeError, match="struck"):
        train_alignment(parts)
    monkeypatch.setattr(alignment, "vqa_loss", plain)
    train_alignment(replace(parts, resume=True))
    one, other = (
        load_value_model(read_value_checkpoint(tmp_path / name / "checkpoint")).state_dict()
        for name in ("whole", "parts")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_that_writes_no_answers_is_refused(folder, beginning, tmp_path):
    init = str(beginning / "cross-attention")
    with pytest.raises(TrainingError, match="cross-attention model, which writes no answers"):
        train_alignment(settings(folder, tmp_path, siglip=None, gemma=None, init=init))


def test_what_is_missing_is_named_before_anything_is_written(folder, tmp_path):
    for changes, error, match in (
        ({"questions": folder / "none.json"}, DataError, "none.json is no file"),
        ({"pictures": folder / "none"}, DataError, "none is no folder"),
    ):
        with pytest.raises(error, match=match):
            train_alignment(settings(folder, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="none is no folder"):
        train_alignment(settings(folder, tmp_path / "run", siglip=str(folder / "none")))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"siglip": None}, "expected --siglip FOLDER and --gemma FOLDER, or --init"),
        ({"init": "a"}, "leave out --siglip and --gemma"),
        ({"validation": 0.0}, "validation is 0, expected a share"),
        ({"epochs": 0.0}, "epochs is 0, expected a positive number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder, tmp_path, changes, match):
    with pytest.raises(TrainingError, match=match):
        settings(folder, tmp_path, **changes)


def test_epochs_end_the_loop_and_shorten_its_rise():
    default = AlignmentSettings(out=Path("a"), questions=Path("b"), siglip="c", gemma="d")
    loop = loop_of_epochs(default.loop, default.epochs, 80_000)
    assert (loop.steps, loop.decay, loop.warmup) == (10_000, 10_000, 200)
    assert (loop.batch_size, loop.accumulate, loop.learning_rate) == (16, 2, 2e-5)
    assert (loop.weight_decay, loop.clip) == (0.01, 1.0)
    assert loop.rate(200) == pytest.approx(2e-5)
    short = loop_of_epochs(default.loop, 2.0, 17)
    assert (short.steps, short.decay, short.warmup) == (3, 3, 0)
    bound = loop_of_epochs(replace(default.loop, steps=50), 2.0, 80_000)
    assert (bound.steps, bound.warmup) == (50, 5)
