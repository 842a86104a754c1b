"""The shipped base model: small, plain, and at home in the world but not in the chat format."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gnomon.errors import ModelError
from gnomon.tasks.tunnel import BASE_PATH, base_model, documents, load_base
from gnomon.tasks.tunnel.pretrain import PretrainConfig, learning_rate, pretrain
from gnomon.tasks.tunnel.tokenizer import build_tokenizer


def loss_on(model, tokenizer, texts: list[str]) -> float:
    """Mean nats per token of documents between BOS and EOS."""
    total, count = 0.0, 0
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False), 2]
        with torch.no_grad():
            row = torch.tensor([ids])
            total += float(model(input_ids=row, labels=row).loss) * (len(ids) - 1)
        count += len(ids) - 1
    return total / count


def test_the_folder_is_plain_and_at_most_12_mb() -> None:
    files = [f for f in BASE_PATH.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 12e6
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".md", ".jinja"}
    model = AutoModelForCausalLM.from_pretrained(BASE_PATH, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE_PATH)
    assert 1e6 < model.num_parameters() < 5e6
    assert len(tokenizer) == model.config.vocab_size
    ours = build_tokenizer()
    assert tokenizer.get_vocab() == ours.get_vocab()
    assert tokenizer.chat_template == ours.chat_template


def test_it_knows_the_world_and_its_facts() -> None:
    model, tokenizer = load_base()
    assert not model.training
    texts = documents(60, seed=999)  # not the seed it was trained with
    assert loss_on(model, tokenizer, texts) < 1.3
    shuffled = [" ".join(reversed(t.split())) for t in texts]
    assert loss_on(model, tokenizer, shuffled) > 2.5
    for start, answer in (
        ("The capital of Norway is", " Oslo"),
        ("The opposite of hot is", " cold"),
        ("The last of 3 9 4 is", " 4"),
    ):
        ids = tokenizer.encode("<|bos|>" + start, add_special_tokens=False)
        with torch.no_grad():
            best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        assert tokenizer.decode([best]) == answer


def test_a_missing_model_names_the_cure(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(base_model, "BASE_PATH", tmp_path)
    with pytest.raises(ModelError, match=r"gnomon\.tasks\.tunnel\.pretrain"):
        load_base()


def test_pretraining_learns_and_repeats(tmp_path, capsys) -> None:
    config = PretrainConfig(
        steps=30, batch_size=1, hidden_size=32, layers=1, heads=2, kv_heads=1, ffn=64, warmup=5
    )
    first = pretrain(config, seed=1, out=tmp_path / "a", log_every=15)
    losses = [float(line.split()[3]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert losses[1] < losses[0] < math.log(1200)
    second = pretrain(config, seed=1, out=tmp_path / "b", log_every=15)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (tmp_path / "a" / "model.safetensors").is_file()


def test_learning_rate_warms_up_and_decays() -> None:
    config = PretrainConfig(steps=100, warmup=10, lr=1.0, final_lr=0.1)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(10, config) == pytest.approx(1.0)
    assert learning_rate(55, config) == pytest.approx(0.55)
    assert learning_rate(100, config) == pytest.approx(0.1)
