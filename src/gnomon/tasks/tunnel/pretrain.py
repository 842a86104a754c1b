"""Pretrain the tunnel's base model from nothing.

``python -m gnomon.tasks.tunnel.pretrain --out DIR``

A Llama of a few million parameters learns the world's documents (corpus.py) by plain next-token
prediction. Documents are packed end to end, each between BOS and EOS. The folder written is in
plain Hugging Face format, with the tokenizer and its chat template.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gnomon.tasks.tunnel.corpus import document
from gnomon.tasks.tunnel.tokenizer import CONTEXT, END, build_tokenizer

ROW = 128
"""Tokens per row: longer than any chat of the world, short enough to be quick."""


@dataclass(frozen=True)
class PretrainConfig:
    """What the shipped base model was trained with (see base/README.md).

    Attributes:
        steps, batch_size: updates, and rows of ``ROW`` tokens in each.
        lr: peak learning rate, reached after ``warmup`` steps, then a cosine down to
            ``final_lr`` times it.
        weight_decay: of matrices only, never of norms.
        mix: which corpus.MIXES the documents come from.
        hidden_size, layers, heads, kv_heads, ffn: the model's shape.
    """

    steps: int = 2600
    batch_size: int = 8
    lr: float = 3e-3
    final_lr: float = 0.02
    warmup: int = 100
    weight_decay: float = 0.05
    mix: str = "broad"
    hidden_size: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 512


def make_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama with tied embeddings."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            initializer_range=0.02,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    # A chat ends with EOS; a stray end-of-turn ends it as well.
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)]
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def packed_rows(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch_size: int, mix: str
) -> Iterator[Tensor]:
    """Endless [batch_size, ROW] batches of documents laid end to end."""
    stream: list[int] = []
    index = 0
    while True:
        while len(stream) < batch_size * ROW:
            ids = tokenizer.encode(document(seed, index, mix), add_special_tokens=False)
            stream += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
            index += 1
        yield torch.tensor(stream[: batch_size * ROW]).view(batch_size, ROW)
        del stream[: batch_size * ROW]


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine from ``lr`` down to ``final_lr`` x ``lr``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    share = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * share


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the plain Hugging Face folder."""
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


def pretrain(
    config: PretrainConfig,
    seed: int,
    out: Path,
    init: Path | None = None,
    log_every: int = 100,
    save_every: int = 500,
) -> LlamaForCausalLM:
    """Train from ``seed``, or on from the model folder ``init``, and return the model.

    The mean loss is printed every ``log_every`` steps and the model so far written to ``out`` every
    ``save_every`` steps and at the end.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    if init is None:
        model = make_model(config, tokenizer)
    else:
        model = LlamaForCausalLM.from_pretrained(
            init, use_safetensors=True, dtype="float32"
        ).train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    started, recent = time.monotonic(), []
    rows = packed_rows(tokenizer, seed, config.batch_size, config.mix)
    for step in range(config.steps):
        batch = next(rows)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % log_every == 0 or step + 1 == config.steps:
            mean, seconds = sum(recent) / len(recent), time.monotonic() - started
            speed = (step + 1) * batch.numel() / seconds
            print(f"step {step + 1} loss {mean:.4f} {seconds:.0f} s {speed:.0f} tok/s", flush=True)
            recent.clear()
        if (step + 1) % save_every == 0 or step + 1 == config.steps:
            save(model, tokenizer, out)
    return model.eval()


def main() -> None:
    """Run the command line: every field of PretrainConfig is an option."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--init", type=Path, help="train on from this model, in its shape")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in asdict(PretrainConfig()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = vars(parser.parse_args())
    out, init, seed = (options.pop(name) for name in ("out", "init", "seed"))
    config = PretrainConfig(**options)
    pretrain(config, seed, out, init)
    (out / "pretrain.json").write_text(
        json.dumps({"seed": seed, **asdict(config)}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
