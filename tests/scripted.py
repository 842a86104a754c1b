"""A language model that says what a test wants: each token leads to the next one."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as tf

from tiny_world import CONTEXT, EOS, tokenizer

WIDTH = 64


def save_scripted(folder: Path, answer: str, *, ends: bool = True) -> Path:
    """A model folder that answers everything with ``answer``, whose tokens must all differ."""
    said = tokenizer().encode(answer, add_special_tokens=False)
    begin = tokenizer().convert_tokens_to_ids("<|assistant|>")
    chain = [begin, *said, *([EOS] if ends else [])]
    if len(set(chain)) < len(chain) or len(chain) > WIDTH:
        raise ValueError(f"{answer!r} repeats a token")
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=EOS,
    )
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        layer = model.model.layers[0]
        for weight in (
            *(layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight),
            *(model.model.embed_tokens.weight, model.lm_head.weight),
        ):
            weight.zero_()
        for place, (here, following) in enumerate(zip(chain, [*chain[1:], chain[-1]], strict=True)):
            model.model.embed_tokens.weight[here, place] = 1.0
            model.lm_head.weight[following, place] += 10.0
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
