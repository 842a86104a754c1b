"""Whole recipes with off-line preference methods, on a tiny model and files as people have them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import transformers as tf

from gnomon.errors import ConfigError, DataError
from gnomon.recipe.load import parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.plan import make_plan
from gnomon.stages.stage import open_stage, run_stage
from gnomon.tasks.tunnel.demonstrations import demonstrations
from gnomon.tasks.tunnel.tokenizer import build_tokenizer
from gnomon.training.loop import Loop


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model, pairs.jsonl and labels.jsonl."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = build_tokenizer()
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tf.set_seed(0)
    tf.LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    shown = demonstrations(24, seed=1)
    pairs = []
    for i, group in enumerate(shown):
        other = shown[(i + 7) % len(shown)].responses[0].text
        prompt = group.prompt.messages[-1].content
        pairs.append({"prompt": prompt, "chosen": group.responses[0].text, "rejected": other})
    good = [p for p in pairs if p["chosen"] != p["rejected"]]
    write(folder / "pairs.jsonl", good)
    labels = [
        {"prompt": p["prompt"], "completion": p[side], "label": side == "chosen"}
        for p in good
        for side in ("chosen", "rejected")
    ]
    write(folder / "labels.jsonl", labels)
    swapped = {**good[0], "chosen": good[0]["rejected"], "rejected": good[0]["chosen"]}
    same = {**good[1], "rejected": good[1]["chosen"]}
    empty = {**good[2], "rejected": ""}
    write(folder / "doubtful.jsonl", [*good, swapped, same, empty])
    write(folder / "all-good.jsonl", [row for row in labels if row["label"]])
    return folder


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(world, name, *stages):
    common = {"holdout": 0.2, "from": "model"}
    train = {"steps": 3, "batch_size": 4, "lr": 1e-3, "checkpoint_every": 2}
    return parse_recipe(
        {
            "name": name,
            "model": str(world / "model"),
            "output": str(world / "runs"),
            "max_length": 200,
            "stages": [
                {"name": f"s{i}", "data": str(world / "pairs.jsonl"), "train": train}
                | common
                | stage
                for i, stage in enumerate(stages)
            ],
        }
    )


def run(asked, resume=False):
    """Every stage in order, without the report (which takes longer than all of them)."""
    folder = RunFolder(asked)
    folder.open(resume)
    for stage in asked.stages:
        run_stage(open_stage(asked, stage, folder, Path()), resume)
    return [folder.stage(stage.name) for stage in asked.stages]


def test_methods_share_one_reference_pass_and_later_runs_have_none(world):
    stages = (
        {"algorithm": "dpo", "holdout": 0},
        {"algorithm": "dpo", "settings": {"loss": "ipo"}},
        {"algorithm": "kto", "data": str(world / "labels.jsonl"), "holdout": 0},
    )
    first = run(recipe(world, "first", *stages))
    responses = 2 * len((world / "pairs.jsonl").read_text().splitlines())
    said = [stage.info().reference for stage in first]
    assert said[0] == {"reused": 0, "computed": responses, "refused": {}}
    assert said[1] == {"reused": responses, "computed": 0, "refused": {}}
    assert said[2]["reused"] >= responses  # its own answers; the mismatched ones are new
    assert said[2]["reused"] + said[2]["computed"] == 2 * responses
    later = run(recipe(world, "later", *stages))
    assert [stage.info().reference["computed"] for stage in later] == [0, 0, 0]
    for a, b in zip(first, later, strict=True):
        losses = [pq.read_table(s.path / "metrics.parquet")["loss"].to_pylist() for s in (a, b)]
        assert losses[0] == losses[1]


def test_the_next_models_reference_is_its_own(world):
    """Stage two starts from stage one's policy: the base model's numbers must not be used."""
    asked = recipe(world, "chain", {"algorithm": "dpo"}, {"algorithm": "dpo", "from": "s0"})
    _, second = run(asked)
    info = second.info().reference
    assert info["reused"] == 0
    assert info["refused"] == {"made with another model": info["computed"]}
    losses = pq.read_table(second.path / "metrics.parquet")["loss"].to_pylist()
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)


def test_all_methods_and_references_run_and_save(world):
    lora = {"rank": 4}
    stages = run(
        recipe(
            world,
            "all",
            {"algorithm": "simpo"},
            {"algorithm": "orpo", "lora": lora},
            {"algorithm": "dpo", "lora": lora, "settings": {"reference": "adapter_off"}},
            {"algorithm": "dpo", "settings": {"reference": "live", "loss": "plackett_luce"}},
            {
                "algorithm": "dpo",
                "lora": lora,
                "settings": {"reference": "synced", "sync_every": 2, "sync_alpha": 1},
            },
        )
    )
    for stage in stages:
        assert (stage.model / "config.json").is_file()
        evals = json.loads((stage.path / "evals.json").read_text())
        accuracy = evals["held-out implicit reward"]["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_bad_rows_are_named_and_counted_never_trained_on(world):
    stage = {"algorithm": "dpo", "data": str(world / "doubtful.jsonl"), "holdout": 0}
    (done,) = run(recipe(world, "doubtful", stage))
    skipped = done.info().skipped
    assert skipped.count == 4
    said = "\n".join(skipped.examples)
    assert said.count("judged both ways") == 2
    assert "chosen and rejected are the same" in said
    assert "empty response" in said


def test_data_of_one_class_stops_kto_with_the_files_name(world):
    stage = {"algorithm": "kto", "data": str(world / "all-good.jsonl")}
    with pytest.raises(DataError, match=r"all-good.jsonl: all \d+ answers are good"):
        run(recipe(world, "good", stage))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reference": "adapter_off"}, "needs LoRA"),
        ({"reference": "synced", "sync_every": 50}, "never move"),
        ({"reference": "cachd"}, "reference"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_the_dry_run_finds_settings_that_cannot_work(world, settings, said):
    asked = recipe(world, "dry", {"algorithm": "dpo", "settings": settings})
    with pytest.raises(ConfigError, match=said):
        make_plan(asked, Path())


def test_a_second_model_is_in_the_plan_only_when_asked(world):
    stages = [{"algorithm": "dpo"}, {"algorithm": "dpo", "settings": {"reference": "live"}}]
    plans = make_plan(recipe(world, "plan", *stages), Path())
    assert [p.roles for p in plans] == [("policy",), ("policy", "reference")]


def test_a_killed_stage_goes_on_to_the_same_end(world, monkeypatch):
    asked = recipe(world, "whole", {"algorithm": "dpo"})
    (whole,) = run(asked)
    broken = asked.model_copy(update={"name": "broken"})
    iterate = Loop._iteration

    def killed(self, iteration):
        if iteration == 2:
            raise KeyboardInterrupt
        return iterate(self, iteration)

    monkeypatch.setattr(Loop, "_iteration", killed)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    monkeypatch.undo()
    (resumed,) = run(broken, resume=True)
    tables = [pq.read_table(s.path / "metrics.parquet") for s in (whole, resumed)]
    for column in ("loss", "margin", "logprobs/chosen_change"):
        assert tables[0][column].to_pylist() == tables[1][column].to_pylist()
    assert resumed.info().reference["computed"] == 0
