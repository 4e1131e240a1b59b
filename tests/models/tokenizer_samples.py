# SPDX-License-Identifier: Apache-2.0
"""A small tokenizer that is built as PaliGemma's is."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "Task: stack the red cube on the blue one, State: 12 128 255;\nSubtask: grasp the red cube",
    "Task: grasp the red cube, State: 0 7 201;\nAction: place it on the tray",
]


def paligemma_like() -> tokenizers.Tokenizer:
    """BPE with spaces as ▁ and bytes for what is unknown, begun by <bos>."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trained = _around(models.BPE())
    # Else these few texts would become a token each.
    trainer = trainers.BpeTrainer(
        vocab_size=120, max_token_length=8, special_tokens=special, show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    learned = json.loads(trained.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    tokenizer = _around(
        models.BPE(
            vocab={token: place for place, token in enumerate(dict.fromkeys(tokens))},
            merges=[tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(special)
    begin = [("<bos>", tokenizer.token_to_id("<bos>"))]
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=begin)
    return tokenizer


def _around(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, folder: Path) -> Path:
    """Writes ``tokenizer.json`` alone and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
