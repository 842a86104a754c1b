"""The examples of CONTRIBUTING.md as importable modules, and a tiny model."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_pages import contributed_files
from transformers import LlamaConfig, LlamaForCausalLM

import gnomon.algorithms
import gnomon.losses
import gnomon.stats
from gnomon.algorithms.registry import ALGORITHMS
from gnomon.tasks.tunnel.tokenizer import build_tokenizer


@pytest.fixture
def contributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that holds CONTRIBUTING's files; those of the package can be imported from it."""
    for name, text in contributed_files().items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for package in (gnomon.losses, gnomon.algorithms, gnomon.stats):
        part = package.__name__.rpartition(".")[2]
        extra = str(tmp_path / "src" / "gnomon" / part)
        monkeypatch.setattr(package, "__path__", [*package.__path__, extra])
    from gnomon.algorithms.unlikelihood import Unlikelihood  # type: ignore[import-not-found]

    monkeypatch.setitem(ALGORITHMS, Unlikelihood.name, Unlikelihood)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for module in ("losses.unlikelihood", "algorithms.unlikelihood", "evals.refusals"):
        sys.modules.pop(f"gnomon.{module}", None)


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
