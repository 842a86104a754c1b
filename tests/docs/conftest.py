"""The examples of CONTRIBUTING.md as importable modules, and a tiny model."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_pages import contributed_files
from transformers import LlamaConfig, LlamaForCausalLM

import gnomon.stats
from gnomon.tasks.tunnel.tokenizer import build_tokenizer


@pytest.fixture
def contributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds CONTRIBUTING's files; those of the package can be imported from it."""
    for name, text in contributed_files().items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    extra = str(tmp_path / "src" / "gnomon" / "stats")
    monkeypatch.setattr(gnomon.stats, "__path__", [*gnomon.stats.__path__, extra])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in ("unlikelihood", "gnomon.stats.declining"):
        sys.modules.pop(module, None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model in place of the tunnel's."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
