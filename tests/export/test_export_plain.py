"""``gnomon export --to merged``: what plain transformers loads, and nothing of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model

from command import Run, runs
from gnomon.files import damage
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import save_policy
from tiny_world import LORA, save_tiny, shake, tiny_model, tokenizer

IDS = torch.tensor([[1, 20, 30, 40, 50]])


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    return runs(tmp_path, monkeypatch, capsys, "export")


def logits(folder: Path) -> torch.Tensor:
    model = tf.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapter(folder: Path, base: Path) -> Path:
    """A LoRA adapter as PEFT saves it, far from the identity."""
    model = get_peft_model(
        tf.AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def test_a_stages_model_loads_plainly_and_names_nothing_here(gnomon: Run, tmp_path: Path) -> None:
    trunk = Trunk(tiny_model(), tokenizer(), source=str(save_tiny(tmp_path / "start")))
    trunk.add_adapter("policy", LORA)
    role = Role("policy", trunk, adapter="policy", trainable=True)
    shake(role)
    model = save_policy(
        tmp_path / "mine", role, facts={"base": str(tmp_path), "averaged": [str(tmp_path)]}
    )
    (model / "README.md").write_text("---\nlicense: mit\n---\n\nA card.\n")
    (model / "optimizer.pt").write_bytes(b"x")
    (model / "modeling_evil.py").write_text("raise SystemExit")
    code, said = gnomon("mine", "--to", "merged", "--out", "out")
    assert code == 0, said
    assert "vllm serve out" in said
    out = tmp_path / "out"
    assert torch.equal(logits(out), logits(model))
    assert not torch.equal(logits(out), logits(tmp_path / "start"))
    assert {p.name for p in out.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("gnomon.json", "gnomon_export.json"),
    }
    assert "license: mit" in (out / "README.md").read_text()
    for file in out.glob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
    assert damage(out, json.loads((out / "gnomon_export.json").read_text())["files"]) is None


def test_an_adapter_is_merged_as_peft_merges_it(gnomon: Run, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", base)
    code, said = gnomon("adapter", "--to", "merged", "--out", "out")
    assert code == 0, said
    peft = PeftModel.from_pretrained(tf.AutoModelForCausalLM.from_pretrained(base), folder)
    with torch.no_grad():
        expected = peft.merge_and_unload().eval()(input_ids=IDS).logits
    assert torch.allclose(logits(tmp_path / "out"), expected, atol=1e-5)
    assert not torch.allclose(logits(base), expected, atol=1e-2)
    assert not (tmp_path / "out" / "adapter").exists()


def test_an_adapters_own_template_counts_wherever_it_lies(gnomon: Run, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", save_tiny(tmp_path / "base"))  # which has a .jinja
    tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    own = "{% for m in messages %}own: {{ m.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": own}))
    code, said = gnomon("adapter", "--to", "merged", "--out", "out")
    assert code == 0, said
    assert tf.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == own


def test_what_is_there_is_replaced_only_if_asked_and_only_an_export(
    gnomon: Run, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "one", seed=1)
    save_tiny(tmp_path / "two", seed=2)
    merged = ("--to", "merged", "--out")
    assert gnomon("one", *merged, "out")[0] == 0
    code, said = gnomon("two", *merged, "out")
    assert code == 1
    assert "out is there already: give another --out, or --overwrite" in said
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "one"))
    assert gnomon("two", *merged, "out", "--overwrite")[0] == 0
    assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "two"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    code, said = gnomon("two", *merged, "thesis", "--overwrite")
    assert code == 1
    assert "is no export of gnomon's" in said
    assert (tmp_path / "thesis" / "chapter.tex").exists()
    for place in ("one/inside", "out"):
        code, said = gnomon("out" if place == "out" else "one", *merged, place, "--overwrite")
        assert code == 1
        assert "is the model's own folder" in said


def test_hidden_files_of_others_beside_an_export_stay(gnomon: Run, tmp_path: Path) -> None:
    save_tiny(tmp_path / "mine")
    others = [".notes.tmp-1", ".thesis.old", ".outer.tmp-1-0-abcdef", ".out.old", ".out.tmp-mine"]
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "chapter.tex").write_text("years of work")
    (tmp_path / "thesis").mkdir()
    (tmp_path / ".out.tmp-1-0-abcdef").mkdir()  # of an export that was killed
    assert gnomon("mine", "--to", "merged", "--out", "out")[0] == 0
    assert all((tmp_path / name / "chapter.tex").exists() for name in others)
    assert not (tmp_path / ".out.tmp-1-0-abcdef").exists()


def test_a_reward_model_keeps_its_head(gnomon: Run, tmp_path: Path) -> None:
    config = tiny_model().config
    config.num_labels = 1
    config.architectures = None
    tf.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "rm")
    tokenizer().save_pretrained(tmp_path / "rm")
    assert gnomon("rm", "--to", "merged", "--out", "out")[0] == 0
    tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    code, said = gnomon("rm", "--to", "gguf", "--out", "g", "--converter", sys.executable)
    assert code == 1
    assert "is a reward model, which llama.cpp does not serve" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "--to", "merged", "--out", "o"), "no model at 'nowhere'"),
        (("tunnel", "--to", "merged", "--out", "o", "--public"), "--public goes with"),
        (("tunnel", "--to", "gguf", "--out", "o", "--outtype", "q9"), "there are f32, f16"),
        (("tunnel", "--to", "merged", "--out", "o", "--verify"), "go with --to gguf"),
        (("pickled", "--to", "merged", "--out", "o"), "has only pytorch_model.bin"),
        (("cut", "--to", "merged", "--out", "o"), "the weights in"),
        (("orphan", "--to", "merged", "--out", "o"), "does not name the model"),
        (("answers.jsonl", "--to", "merged", "--out", "o"), "a file of answers"),
    ],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_left(
    gnomon: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "answers.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    save_tiny(tmp_path / "pickled")
    (tmp_path / "pickled/model.safetensors").rename(tmp_path / "pickled/pytorch_model.bin")
    weights = save_tiny(tmp_path / "cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "orphan").mkdir()
    (tmp_path / "orphan/adapter_config.json").write_text('{"peft_type": "LORA"}')
    code, said = gnomon(*arguments)
    assert code == 1
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "o").exists()
    assert not list(tmp_path.glob(".o*"))


def test_an_export_killed_half_way_leaves_no_folder_and_can_be_made_again(
    gnomon: Run, tmp_path: Path
) -> None:
    """The stand-in for a converter kills the export when the weights are its turn."""
    save_tiny(tmp_path / "mine")
    script = tmp_path / "convert.py"
    script.write_text(
        "import os, signal, sys\n"
        "if '--vocab-only' not in sys.argv: os.kill(os.getppid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", "from gnomon.cli.main import main; main()", "export"]
    killed = subprocess.run(
        [*command, "mine", "--to", "gguf", "--out", "out", "--converter", str(script)],
        cwd=tmp_path,
        env=os.environ,
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.tmp-*"))
    code, said = gnomon("mine", "--to", "merged", "--out", "out")
    assert code == 0, said
    assert (tmp_path / "out" / "gnomon_export.json").is_file()
    assert not list(tmp_path.glob(".out.tmp-*"))
