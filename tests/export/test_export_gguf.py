"""GGUF: how a converter is found, what its failures mean, and llama.cpp's own where it is here."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import transformers as tf

from command import Run, runs
from gnomon.export.gguf import PACKAGE
from gnomon.models import smollm2
from tiny_world import save_tiny, tiny_model

TO_GGUF = ("mine", "--to", "gguf", "--out", "out")


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    monkeypatch.delenv("GNOMON_GGUF_CONVERTER", raising=False)
    return runs(tmp_path, monkeypatch, capsys, "export")


def stand_in(folder: Path, body: str) -> str:
    """A program in the converter's place."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "convert_hf_to_gguf.py"
    file.write_text(body)
    return str(file)


def test_without_a_converter_the_error_says_how_to_get_one(
    gnomon: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "mine")
    monkeypatch.setattr("gnomon.export.gguf.PACKAGE", "no-such-package")
    code, said = gnomon(*TO_GGUF)
    assert code == 1
    assert "gnomon-rlhf[export]" in said
    assert "--converter PATH" in said
    code, said = gnomon(*TO_GGUF, "--converter", "nowhere")
    assert "there is no nowhere" in said
    monkeypatch.setenv("GNOMON_GGUF_CONVERTER", "/nowhere")
    code, said = gnomon(*TO_GGUF)
    assert "GNOMON_GGUF_CONVERTER: there is no /nowhere" in said


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "import sys; sys.exit('ERROR:hf-to-gguf:Model Foo is not supported')",
            "does not know the architecture Foo",
        ),
        (
            "raise NotImplementedError('BPE pre-tokenizer was not recognized - update')",
            "does not know this model's tokenizer",
        ),
        ("import no_such_module", "not installed: no_such_module"),
        ("raise ValueError('odd thing')", "failed: ValueError: odd thing"),
        ("", "left no model-f16.gguf"),
        (
            "import sys; open(sys.argv[sys.argv.index('--outfile') + 1], 'w').write('x' * 99)",
            "cannot be read back",
        ),
    ],
)
def test_a_conversion_that_fails_is_explained_and_leaves_nothing(
    gnomon: Run, tmp_path: Path, body: str, message: str
) -> None:
    save_tiny(tmp_path / "mine")
    stand_in(tmp_path / "llama.cpp", body)
    code, said = gnomon(*TO_GGUF, "--converter", "llama.cpp")
    assert code == 1
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_the_converter_sees_no_code_of_the_models(gnomon: Run, tmp_path: Path) -> None:
    (save_tiny(tmp_path / "mine") / "tokenization_evil.py").write_text("raise SystemExit")
    report = tmp_path / "seen"
    body = (
        "import os, pathlib, sys\n"
        f"names = ' '.join(sorted(os.listdir(sys.argv[-1]))) + os.environ['HF_HUB_OFFLINE']\n"
        f"with open({str(report)!r}, 'a') as f: print(names, file=f)\n"
    )
    gnomon(*TO_GGUF, "--converter", stand_in(tmp_path, body))
    first, second = report.read_text().splitlines()
    for seen in (first, second):
        assert ".py" not in seen
        assert seen.endswith("1")
    assert "model.safetensors" not in first
    assert "model.safetensors" in second


def test_another_models_gguf_is_not_kept(gnomon: Run, tmp_path: Path) -> None:
    """A converter that writes a vocabulary, but not this model's."""
    save_tiny(tmp_path / "mine")
    body = (
        "import sys, gguf, numpy\n"
        "w = gguf.GGUFWriter(sys.argv[sys.argv.index('--outfile') + 1], 'llama')\n"
        "w.add_token_list(['a', 'b']); w.add_eos_token_id(1)\n"
        "w.add_tensor('x', numpy.zeros(4, dtype=numpy.float32))\n"
        "w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file()\n"
    )
    code, said = gnomon(*TO_GGUF, "--converter", stand_in(tmp_path, body))
    assert code == 1
    assert "was not kept: it has 2 tokens and the tokenizer 1264" in said
    assert "it ends a text with token 1, the tokenizer with 2" in said
    assert not (tmp_path / "out").exists()


# -- llama.cpp's own ------------------------------------------------------------------------------


@pytest.fixture
def llama_cpp() -> None:
    try:
        metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip("llama.cpp's converter is not in this environment")


def small_smollm(folder: Path, seed: int = 0) -> Path:
    """A tiny model with SmolLM2's tokenizer, which llama.cpp knows."""
    tokenizer = tf.AutoTokenizer.from_pretrained(smollm2.cached_folder())
    config = tiny_model().config
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.eos_token_id
    torch.manual_seed(seed)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("llama_cpp")
def test_llama_cpps_converter_writes_the_same_model(gnomon: Run, tmp_path: Path) -> None:
    small_smollm(tmp_path / "mine")
    code, said = gnomon("mine", "--to", "ollama", "--out", "out", "--outtype", "f32", "--verify")
    assert code == 0, said
    assert "the same most likely token at 100.0%" in said
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert "FROM ./model-f32.gguf" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    from gguf import GGUFReader

    written = {x.name: x.data for x in GGUFReader(tmp_path / "out" / "model-f32.gguf").tensors}
    own = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "mine").state_dict()
    for there, here in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
    ):
        assert (torch.from_numpy(written[there].copy()) == own[here]).all()


@pytest.mark.usefixtures("llama_cpp")
def test_a_tokenizer_that_llama_cpp_does_not_know(gnomon: Run, tmp_path: Path) -> None:
    code, said = gnomon("tunnel", "--to", "gguf", "--out", "out")
    assert code == 1
    assert "does not know this model's tokenizer" in said
    assert not (tmp_path / "out").exists()


def test_the_wrong_outtype_is_named(gnomon: Run, tmp_path: Path) -> None:
    code, said = gnomon("tunnel", "--to", "gguf", "--out", "out", "--converter", sys.executable)
    assert code == 1
    assert "failed" in said
