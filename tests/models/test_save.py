"""Saved folders against plain transformers and plain PEFT; nothing lost when writing fails."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
import transformers as tf
import zoo
from peft import PeftModel
from safetensors.torch import load_file, save_file

from gnomon.errors import ModelError, RunError
from gnomon.models import save as save_module
from gnomon.models.heads import RewardNormaliser, ScalarHead
from gnomon.models.load import fingerprint, load_causal_lm
from gnomon.models.merge import average_with_start
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.models.save import load_reward_model, save_adapter, save_policy, save_reward_model
from tiny_world import save_tiny, trunk

WEIGHTS = "model.safetensors"
LORA = LoraSettings(rank=4, alpha=8)


def adapted(trunk: Trunk, name: str, head: ScalarHead | None = None, seed: int = 1) -> Role:
    trunk.add_adapter(name, LORA, seed=seed)
    zoo.shake(trunk.adapter_parameters(name), seed)
    return Role(name, trunk, adapter=name, head=head, trainable=True)


def plain_logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids).logits


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    return ids, mask


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_saved_policy_is_a_plain_model_and_the_live_one_is_untouched(
    family: str, tmp_path: Path
) -> None:
    trunk = zoo.trunk(family)
    adapted(trunk, "other", seed=7)
    role = adapted(trunk, "policy")
    ids = torch.randint(3, zoo.V, (2, 9))
    with trunk.active("policy"):
        expected = plain_logits(trunk.model, ids)
    before = {k: v.clone() for k, v in trunk.model.state_dict().items()}
    folder = save_policy(tmp_path / "policy", role, facts={"stage": "sft"})
    assert all(torch.equal(v, before[k]) for k, v in trunk.model.state_dict().items())
    plain = tf.AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(plain_logits(plain, ids), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain_logits(trunk.model, ids), expected, atol=1e-2)
    with_adapter = PeftModel.from_pretrained(zoo.model(family), folder / "adapter")
    torch.testing.assert_close(plain_logits(with_adapter, ids), expected, atol=1e-5, rtol=1e-5)
    if family != "qwen2-tied":  # transformers reads any Qwen2 folder's tokenizer as Qwen2's own
        assert tf.AutoTokenizer.from_pretrained(folder)("w5 w6")["input_ids"] == [5, 6]
    assert tf.GenerationConfig.from_pretrained(folder).eos_token_id == zoo.EOS
    facts = json.loads((folder / "gnomon.json").read_text())
    assert facts["base_fingerprint"] == f"base-{family}"
    assert facts["stage"] == "sft"
    state = load_file(folder / "model.safetensors")
    assert not any("lora" in k or "base_layer" in k for k in state)
    assert load_causal_lm(folder).fingerprint == fingerprint(folder)


@pytest.mark.parametrize("family", ["llama", "qwen2-tied"])
def test_a_fully_trained_policy_comes_back_bit_equal(family: str, tmp_path: Path) -> None:
    trunk = zoo.trunk(family)
    role = Role("policy", trunk, trainable=True)
    zoo.shake(role.named_parameters(), size=0.01)
    folder = save_policy(tmp_path / "policy", role)
    assert not (folder / "adapter").exists()
    ids = torch.randint(3, zoo.V, (2, 9))
    loaded = load_causal_lm(folder).model
    assert torch.equal(plain_logits(loaded, ids), plain_logits(trunk.model, ids))


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_saved_reward_model_gives_plain_transformers_the_same_scores(
    family: str, outputs: int, tmp_path: Path
) -> None:
    trunk, batch = zoo.trunk(family), zoo.batch()
    role = adapted(trunk, "reward", ScalarHead(zoo.H, outputs))
    expected = role.scores(batch).detach().reshape(5, outputs)
    folder = save_reward_model(tmp_path / "rm", role)
    plain = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pad = plain.config.pad_token_id
    assert plain.config.num_labels == outputs
    ids, mask = padded(zoo.rows(batch), pad)
    with torch.no_grad():
        got = plain(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("pad", "unk", "vocabulary"), [("<eos>", None, zoo.V + 1), ("<eos>", "<pad>", zoo.V)]
)
def test_a_model_that_pads_with_eos_is_still_pooled_at_its_eos(
    pad: str, unk: str | None, vocabulary: int, tmp_path: Path
) -> None:
    model = zoo.model("llama", pad_token_id=zoo.EOS)
    trunk, batch = Trunk(model, zoo.tokenizer(pad, unk)), zoo.batch()
    role = Role("reward", trunk, head=ScalarHead(zoo.H))
    folder = save_reward_model(tmp_path / "rm", role)
    plain = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = tf.AutoTokenizer.from_pretrained(folder)
    assert plain.config.pad_token_id == tokens.pad_token_id != zoo.EOS
    assert plain.get_input_embeddings().weight.shape[0] == vocabulary
    ids, mask = padded(zoo.rows(batch), tokens.pad_token_id)
    with torch.no_grad():
        got = plain(input_ids=ids, attention_mask=mask).logits[:, 0]
        plain.config.pad_token_id = zoo.EOS  # what would happen without the change
        wrong = plain(input_ids=ids, attention_mask=mask).logits[:, 0]
    torch.testing.assert_close(got, role.scores(batch), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wrong, role.scores(batch), atol=1e-2)
    again = load_reward_model(folder).members[0]
    torch.testing.assert_close(again.scores(batch), role.scores(batch), atol=1e-5, rtol=1e-5)


def test_a_reward_adapter_joins_the_trunk_it_was_trained_on(tmp_path: Path) -> None:
    batch = zoo.batch()
    trained = adapted(zoo.trunk(), "reward", ScalarHead(zoo.H))
    normaliser = RewardNormaliser(mean=0.5, scale=2.0, length_coef=0.01)
    folder = save_reward_model(
        tmp_path / "rm", trained, normaliser=normaliser, facts={"accuracy": 0.7}
    )
    trunk = zoo.trunk()
    adapted(trunk, "reward_model")
    loaded = load_reward_model(folder, share_trunk=trunk)
    (role,) = loaded.members
    assert role.trunk is trunk
    assert role.adapter == "reward_model_2"
    assert not any(p.requires_grad for p in trunk.adapter_parameters("reward_model_2").values())
    assert loaded.normaliser == normaliser
    assert loaded.facts["accuracy"] == 0.7
    torch.testing.assert_close(role.scores(batch), trained.scores(batch), atol=1e-5, rtol=1e-5)


def test_a_reward_model_of_other_weights_gets_its_own_copy(tmp_path: Path) -> None:
    batch = zoo.batch()
    trained = adapted(zoo.trunk(), "reward", ScalarHead(zoo.H))
    folder = save_reward_model(tmp_path / "rm", trained)
    other = Trunk(zoo.model(seed=1), zoo.tokenizer(), fingerprint="other")
    (role,) = load_reward_model(folder, share_trunk=other).members
    assert role.trunk is not other
    assert other.adapters == ()
    torch.testing.assert_close(role.scores(batch), trained.scores(batch), atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match=r"trained on other weights .base-llama"):
        other.add_adapter("x", init_from=folder / "adapter")


def test_an_ensemble_of_separate_members(tmp_path: Path) -> None:
    trunk, batch = zoo.trunk(), zoo.batch()
    members = [adapted(trunk, f"m{i}", ScalarHead(zoo.H), seed=i) for i in range(2)]
    normaliser = RewardNormaliser(mean=(0.1, 0.2))
    folder = save_reward_model(tmp_path / "rm", members, normaliser=normaliser)
    shared = zoo.trunk()
    loaded = load_reward_model(folder, share_trunk=shared)
    assert shared.adapters == ("reward_model_0", "reward_model_1")
    assert loaded.normaliser == normaliser
    for role, member in zip(loaded.members, members, strict=True):
        torch.testing.assert_close(role.scores(batch), member.scores(batch), atol=1e-5, rtol=1e-5)
    tf.AutoModelForSequenceClassification.from_pretrained(folder / "member-1")


def test_a_reward_model_made_by_transformers_alone(tmp_path: Path) -> None:
    config = zoo.FAMILIES["gemma"]()
    config.num_labels = 1
    plain = tf.AutoModelForSequenceClassification.from_config(config).eval()
    plain.save_pretrained(tmp_path / "rm")
    zoo.tokenizer().save_pretrained(tmp_path / "rm")
    batch = zoo.batch()
    loaded = load_reward_model(tmp_path / "rm", trainable=True)
    assert loaded.normaliser == RewardNormaliser()
    with torch.no_grad():
        expected = torch.cat([plain(torch.tensor([r])).logits[0] for r in zoo.rows(batch)])
    scores = loaded.members[0].scores(batch)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    scores.sum().backward()
    assert all(p.grad is not None for p in loaded.members[0].parameters())


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    role = Role("policy", zoo.trunk())
    save_policy(tmp_path / "lm", role)
    with pytest.raises(ModelError, match=r"no score\.weight"):
        load_reward_model(tmp_path / "lm")
    with pytest.raises(ModelError, match="needs a scalar head without bias"):
        save_reward_model(tmp_path / "rm", Role("v", role.trunk, head=ScalarHead(zoo.H, bias=True)))
    with pytest.raises(ModelError, match="needs a scalar head"):
        save_reward_model(tmp_path / "rm", role)


def test_a_bfloat16_trunk_keeps_its_dtype_and_the_head_its_precision(tmp_path: Path) -> None:
    trunk = zoo.trunk()
    trunk.model.bfloat16()
    role = adapted(trunk, "reward", ScalarHead(zoo.H))
    folder = save_reward_model(tmp_path / "rm", role)
    state = load_file(folder / "model.safetensors")
    assert state["score.weight"].dtype == torch.float32
    assert torch.equal(state["score.weight"], role.head.weight)
    assert state["model.norm.weight"].dtype == torch.bfloat16


def test_quantised_in_name_only_and_a_contradictory_generation_config_are_saved(
    tmp_path: Path,
) -> None:
    trunk = zoo.trunk()
    trunk.model.config.quantization_config = {"quant_method": "gguf"}
    trunk.model.generation_config.temperature = 0.5  # without do_sample, as Llama 2 was published
    folder = save_policy(tmp_path / "policy", Role("policy", trunk))
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert load_causal_lm(folder).model.generation_config.temperature == 0.5


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES])
def test_a_failed_write_leaves_the_previous_folder(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = adapted(zoo.trunk(), "policy")
    folder = save_policy(tmp_path / "policy", role)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    zoo.shake(role.named_parameters())

    def fail(*_: object, **__: object) -> None:
        raise OSError(error, "no room" if error == errno.ENOSPC else "not allowed")

    monkeypatch.setattr(save_module, "save_file", fail)  # the adapter, after the model was written
    with pytest.raises(RunError, match="policy"):
        save_policy(folder, role)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]
    monkeypatch.undo()
    save_policy(folder, role)
    assert (folder / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_adapters_that_are_pickled_foreign_or_do_not_fit(tmp_path: Path) -> None:
    folder = save_policy(tmp_path / "p", adapted(zoo.trunk(), "policy")) / "adapter"
    target = Trunk(zoo.model(seed=3), zoo.tokenizer())
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="1 tensors missing"):
        target.add_adapter("a", init_from=folder)
    assert target.adapters == ()
    save_file(
        {k: v[:, :1].contiguous() for k, v in weights.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="shape"):
        target.add_adapter("a", init_from=folder)
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model.bin is a pickle.*save_pretrained"):
        target.add_adapter("a", init_from=folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="DoRA"):
        target.add_adapter("a", init_from=folder)


def test_an_adapter_names_its_base_so_that_any_program_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_tiny(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    expected = {"base": str(base.resolve()), "org/name": "org/name"}
    for source, named in expected.items():
        base_trunk = trunk()
        base_trunk.source = source
        base_trunk.add_adapter("policy", LORA)
        folder = save_adapter(tmp_path / "adapter", base_trunk, "policy")
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == named


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_averaging_with_the_start_is_exact_in_the_saved_weights(
    share: float, tmp_path: Path
) -> None:
    start = load_file(save_policy(tmp_path / "start", Role("start", zoo.trunk("llama"))) / WEIGHTS)
    for lora in (False, True):
        trunk = zoo.trunk("llama")
        if lora:
            role = adapted(trunk, "policy")
        else:
            role = Role("policy", trunk, trainable=True)
            zoo.shake(dict(role.named_parameters()), 3)
        trained = load_file(save_policy(tmp_path / f"trained-{lora}", role) / WEIGHTS)
        known = {} if lora else {f"policy.trunk.{k}": v for k, v in start.items()}
        average_with_start(role.named_parameters(), known, share)
        folder = save_policy(tmp_path / f"averaged-{lora}", role)
        averaged = load_file(folder / WEIGHTS)
        for key, value in averaged.items():
            expected = (1 - share) * trained[key].double() + share * start[key].double()
            torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)
        moved = [k for k in start if not torch.equal(start[k], trained[k])]
        assert moved
        assert all(torch.equal(averaged[k], start[k]) == (share == 1.0) for k in moved)
    ids = torch.randint(3, zoo.V, (2, 9))
    plain = tf.AutoModelForCausalLM.from_pretrained(folder)
    with_adapter = PeftModel.from_pretrained(zoo.model("llama"), folder / "adapter")
    expected = plain_logits(with_adapter, ids)
    torch.testing.assert_close(plain_logits(plain, ids), expected, atol=1e-4, rtol=1e-4)


def test_averaging_refuses_a_share_beyond_one_and_unknown_starts() -> None:
    role = Role("policy", zoo.trunk("llama"), trainable=True)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1.5"):
        average_with_start(role.named_parameters(), {}, 1.5)
    with pytest.raises(KeyError):
        average_with_start(role.named_parameters(), {}, 0.5)
