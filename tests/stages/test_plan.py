"""--dry-run and the checks before the first stage: every broken reference, and nothing written."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import tiny_world as tw
from gnomon.errors import ConfigError, GnomonError
from gnomon.models.precision import Precision
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import Recipe
from gnomon.records import Message, Prompt
from gnomon.stages import plan
from gnomon.stages.encoder import recipe_encoder
from gnomon.stages.machine_checks import check_order
from gnomon.stages.plan import make_plan, plan_parts
from gnomon.stages.run import run_recipe
from gnomon.stages.stage import pick_device


def pair(i: int) -> dict[str, str]:
    return {"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with data and a reward function, as a user has it."""
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(10)]
    (tmp_path / "demos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(pair(i)) for i in range(8)))
    (tmp_path / "prompts.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"q{i}"}) for i in range(6))
    )
    (tmp_path / "mine.py").write_text("def score(samples):\n    return [1.0 for s in samples]\n")
    return tmp_path


def recipe(base: Path, model: Path | str, **changes: dict[str, Any]) -> Recipe:
    """sft, collect, rm, ppo; ``changes`` by stage name (or "recipe")."""
    stages: list[dict[str, Any]] = [
        {"name": "sft", "algorithm": "sft", "data": "demos.jsonl", "train": {"epochs": 1}},
        {
            "name": "feedback",
            "algorithm": "collect",
            "data": "prompts.jsonl",
            "rollout": {"samples": 2},
            "settings": {"labellers": [{"name": "a"}]},
        },
        {"name": "rm", "algorithm": "reward_model", "data": "stage:feedback"},
        {
            "name": "ppo",
            "algorithm": "ppo",
            "data": "prompts.jsonl",
            "reward": [{"model": "rm"}, {"function": "mine.py:score"}],
            "rollout": {"max_new_tokens": 8},
            "train": {"steps": 2},
        },
    ]
    for stage in stages:
        stage |= changes.get(stage["name"], {})
    raw = {"name": "run", "model": str(model), "output": str(base / "runs"), "max_length": 100}
    return parse_recipe(raw | {"stages": stages} | changes.get("recipe", {}))


def text(recipe: Recipe, base: Path) -> str:
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*plan_parts(recipe, base), sep="\n")
    return console.export_text()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_plan_says_what_will_happen_and_writes_nothing(base: Path, tiny_folder: Path) -> None:
    before, model = snapshot(base), snapshot(tiny_folder)
    shown = text(recipe(base, tiny_folder), base)
    for part in ("4 stages", "sft", "reward_model", "from an earlier stage", "separate (full)"):
        assert part in shown
    assert snapshot(base) == before
    assert snapshot(tiny_folder) == model


def test_the_plans_figures(base: Path, tiny_folder: Path) -> None:
    with (base / "demos.jsonl").open("a") as file:
        file.write('\n{"prompt": "q", "completion": ""}\n{"prompt": 1')
    plans = make_plan(
        recipe(base, tiny_folder, sft={"train": {"epochs": 2, "batch_size": 4, "lr": 0.5}}), base
    )
    assert (plans[0].rows, plans[0].skipped, plans[0].iterations, plans[0].lr) == (10, 2, 5, 0.5)
    assert plans[0].start == str(tiny_folder)
    assert plans[2].rows is None
    assert plans[3].start.endswith("01-sft/model")
    assert plans[3].roles == ("policy", "reference", "value_model")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "missing file": ({"sft": {"data": "demo.jsonl"}}, "demos.jsonl"),
    "missing eval file": ({"sft": {"eval_data": "nothing.jsonl"}}, "nothing.jsonl"),
    "wrong kind": ({"sft": {"data": "prompts.jsonl"}}, "cannot be read as demonstrations"),
    "no data": ({"sft": {"data": []}}, "no data"),
    "tunnel source": ({"sft": {"data": "tunnel:demonstration"}}, "tunnel:demonstrations"),
    "tunnel option": (
        {"sft": {"data": {"path": "tunnel:demonstrations", "options": {"m": 3}}}},
        "its options are n",
    ),
    "tunnel value": (
        {"sft": {"data": {"path": "tunnel:demonstrations", "options": {"n": "many"}}}},
        "its options",
    ),
    "algorithm": ({"sft": {"algorithm": "stf"}}, "did you mean 'sft'"),
    "setting": ({"ppo": {"settings": {"bta": 1}}}, "did you mean 'beta'"),
    "bad setting": ({"ppo": {"settings": {"beta": -1}}}, "beta"),
    "start later": ({"sft": {"from": "ppo"}}, "a later stage"),
    "start from a reward model": ({"ppo": {"from": "rm"}}, "trains no policy"),
    "start misspelt": ({"ppo": {"from": "stf"}}, "did you mean the stage 'sft'"),
    "model": ({"recipe": {"model": "no/such/folder"}}, "no model at"),
    "function missing": ({"ppo": {"reward": {"function": "mine.py:scor"}}}, "did you mean 'score'"),
    "function file": ({"ppo": {"reward": {"function": "my.py:score"}}}, "no file"),
    "builtin": ({"ppo": {"reward": "goold"}}, "did you mean 'gold'"),
    "observed": ({"ppo": {"observe": "goold"}}, "did you mean 'gold'"),
    "observed as the loop's": (
        {"ppo": {"observe": {"builtin": "gold", "name": "final"}}},
        "cannot be called 'final'",
    ),
    "reward later": (
        {"feedback": {"settings": {}, "reward": {"model": "rm"}}},
        "comes later",
    ),
    "reward that is none": ({"ppo": {"reward": {"model": "sft"}}}, "trains no reward model"),
    "reward nowhere": ({"ppo": {"reward": {"model": "rmm"}}}, "neither a stage"),
    "no reward": ({"ppo": {"reward": []}}, "needs a reward"),
    "no judge": ({"feedback": {"settings": {}}}, "or settings.labellers"),
    "reward unused": ({"sft": {"reward": "gold"}}, "uses no reward"),
    "data later": (
        {"sft": {"algorithm": "reward_model", "data": "stage:feedback"}},
        "that stage comes later",
    ),
    "data of no collect stage": ({"rm": {"data": "stage:sft"}}, "known: feedback"),
    "text without coefficient": ({"sft": {"pretraining": "tunnel:text"}}, "pretraining_coef"),
    "coefficient without text": (
        {"sft": {"settings": {"pretraining_coef": 0.1}}},
        "give pretraining",
    ),
    "held out twice": (
        {"sft": {"holdout": 0.1, "eval_data": "demos.jsonl"}},
        "either holdout or eval_data",
    ),
    "no room": ({"ppo": {"rollout": {"max_new_tokens": 100}}}, "leaves no room for a prompt"),
    "compare data": (
        {"recipe": {"compare": {"prompts": "none.jsonl"}}},
        "compare: ",
    ),
    "compare reference": (
        {"recipe": {"compare": {"prompts": "prompts.jsonl", "reference": "rm"}}},
        "the policies are base, sft, ppo",
    ),
    "one name twice": (
        {"ppo": {"reward": [{"builtin": "gold"}, {"builtin": "gold"}]}},
        "two rewards are called 'gold'",
    ),
}  # fmt: skip
ONLY_THE_PLAN = {"wrong kind", "tunnel value", "no room"}  # found by reading data or the tokenizer


@pytest.mark.parametrize("case", BROKEN)
def test_every_broken_reference_is_found(base: Path, tiny_folder: Path, case: str) -> None:
    changes, message = BROKEN[case]
    broken = recipe(base, tiny_folder, **changes)
    with pytest.raises(GnomonError) as caught:
        make_plan(broken, base)
    assert message in str(caught.value)
    if case in ONLY_THE_PLAN:
        return
    with pytest.raises(GnomonError) as caught:  # and before a run's first stage
        run_recipe(broken, base=base, announce=lambda said: None)
    assert message in str(caught.value)
    assert not (base / "runs").exists()


def test_all_problems_come_in_one_go(base: Path, tiny_folder: Path) -> None:
    broken = recipe(
        base, tiny_folder, sft={"data": "no.jsonl"}, ppo={"reward": "nope"}, rm={"holdout": 0.5}
    )
    with pytest.raises(ConfigError) as caught:
        make_plan(broken, base)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["stage 'sft'", "stage 'ppo'"]


def test_a_function_that_raises_at_import_is_found(base: Path, tiny_folder: Path) -> None:
    (base / "mine.py").write_text("raise ValueError('boom')")
    with pytest.raises(ConfigError, match=r"mine\.py.*boom"):
        make_plan(recipe(base, tiny_folder), base)


def test_a_pickle_checkpoint_is_refused(base: Path, tiny_folder: Path) -> None:
    folder = base / "pickled"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(GnomonError, match="pickle can run code"):
        make_plan(recipe(base, folder), base)


def test_a_reward_folder_that_holds_no_reward_model_is_refused(
    base: Path, tiny_folder: Path
) -> None:
    changes = {"ppo": {"reward": {"model": str(tiny_folder)}}}
    with pytest.raises(GnomonError, match="is not a reward model"):
        make_plan(recipe(base, tiny_folder, **changes), base)
    good = base / "reward"
    shutil.copytree(tiny_folder, good)
    weights = load_file(good / "model.safetensors")
    save_file({**weights, "score.weight": weights["model.norm.weight"][None].clone()},
              good / "model.safetensors")  # fmt: skip
    make_plan(recipe(base, tiny_folder, ppo={"reward": {"model": "reward"}}), base)


def test_a_tokenizer_without_a_template_is_found(base: Path, tiny_folder: Path) -> None:
    folder = base / "plain"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(GnomonError, match="no chat template"):
        make_plan(recipe(base, folder), base)
    make_plan(recipe(base, folder, recipe={"template": "plain"}), base)


def test_a_run_is_not_resumed_with_another_recipe(base: Path, tiny_folder: Path) -> None:
    stage = tw.sft_stage(steps=1)
    one = tw.make_recipe(tiny_folder, base / "runs", stage)
    run_recipe(one, base=base, announce=lambda said: None)
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume"):
        run_recipe(one, base=base)
    steps = tw.sft_stage(steps=2)
    other = tw.make_recipe(tiny_folder, base / "runs", steps, seed=4, deterministic=True)
    with pytest.raises(ConfigError, match="another recipe") as caught:
        run_recipe(other, base=base, resume=True)
    assert "seed" in str(caught.value)
    assert "deterministic was false and is now true" in str(caught.value)
    assert "sft.train.steps was 1 and is now 2" in str(caught.value)


def test_resuming_nothing_says_so(base: Path, tiny_folder: Path) -> None:
    said: list[str] = []
    one = tw.make_recipe(tiny_folder, base / "runs", tw.sft_stage(steps=1), name="fresh")
    run_recipe(one, base=base, resume=True, announce=said.append)
    assert "nothing to resume" in said[0]


@pytest.mark.parametrize(
    ("unused", "said"),
    [
        ({"holdout": 0.1}, "a collect stage trains and evaluates nothing"),
        ({"lora": {"rank": 4}}, "a collect stage trains and evaluates nothing"),
        ({"observe": "gold"}, "remove observe"),
        ({"reward": "gold"}, "one of them judges"),
    ],
)
def test_collecting_refuses_what_it_would_leave_unused(
    tiny_folder: Path, tmp_path: Path, unused: dict[str, Any], said: str
) -> None:
    stage = {
        "name": "feedback",
        "algorithm": "collect",
        "data": {"path": "tunnel:prompts", "options": {"n": 4}},
        "rollout": {"samples": 2},
        "settings": {"labellers": [{}]},
    }
    raw = {"name": "r", "model": str(tiny_folder), "output": str(tmp_path), "max_length": 160}
    make_plan(parse_recipe({**raw, "stages": [stage]}), tmp_path)
    with pytest.raises(ConfigError, match=said):
        make_plan(parse_recipe({**raw, "stages": [{**stage, **unused}]}), tmp_path)


def test_a_model_its_tokenizer_and_the_recipe_must_fit(base: Path, tiny_folder: Path) -> None:
    """In the dry run and before the first stage."""
    stretched = recipe(base, tiny_folder).model_copy(update={"max_length": 100_000})
    for attempt in (make_plan, run_recipe):
        with pytest.raises(GnomonError, match=r"max_length is 100000, and the model takes"):
            attempt(stretched, base=base)
    folder = base / "small"
    shutil.copytree(tiny_folder, folder)
    tokenizer = copy.deepcopy(tw.tokenizer())  # the others share it
    tokenizer.add_tokens(["<one-more>"])
    tokenizer.save_pretrained(folder)
    for attempt in (make_plan, run_recipe):
        with pytest.raises(ConfigError, match=r"does not fit the model.*<one-more>"):
            attempt(recipe(base, folder), base=base)


@pytest.mark.parametrize(("device", "message"), [("mps", "no float64"), ("cuda", "no CUDA device")])
def test_a_device_that_is_not_there_is_refused(
    base: Path, tiny_folder: Path, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    named = recipe(base, tiny_folder).model_copy(update={"device": device})
    for attempt in (make_plan, run_recipe):
        with pytest.raises(ConfigError, match=message):
            attempt(named, base=base)
    assert pick_device("auto") == torch.device("cpu")


def test_a_fixed_order_is_a_gpus(
    base: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, ahead = torch.device("cuda"), {"rollout": {"max_new_tokens": 8, "max_staleness": 1}}
    asked = recipe(base, tiny_folder, recipe={"deterministic": True})
    both = recipe(base, tiny_folder, recipe={"deterministic": True}, ppo=ahead)
    for fine, device in ((asked, cuda), (both, torch.device("cpu")), (recipe(base, "m"), cuda)):
        check_order(fine, device)
    with pytest.raises(ConfigError, match=r"deterministic: stage 'ppo' .*rollout\.max_staleness"):
        check_order(both, cuda)
    assert "fixed order" not in text(asked, base)
    monkeypatch.setattr(plan, "pick_device", lambda asked: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    for deterministic in (True, False):
        precision = Precision("mixed", deterministic=deterministic)
        monkeypatch.setattr(plan, "recipe_precision", lambda asked, found=precision: found)
        assert ("fixed order" in plan._how(asked)) == deterministic


def test_train_on_and_merge_are_recipe_keys(base: Path, tiny_folder: Path) -> None:
    own = recipe(base, tiny_folder)
    named = own.model_copy(update={"train_on": "last", "merge": ["system"]})
    encoder = recipe_encoder(named, tw.tokenizer())
    assert encoder.train_on == "last"
    assert encoder.fingerprint != recipe_encoder(own, tw.tokenizer()).fingerprint
    joined = Prompt("p", (Message("system", "Be brief."), Message("user", "Hi")))
    assert "Be brief.\n\nHi" in tw.tokenizer().decode(encoder.encode_prompt(joined))


def test_lr_auto_of_an_adapter_is_the_rate_that_the_dry_run_shows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes by the size of the model, and not by that of model and adapter."""
    asked: list[int] = []

    def rate(base: float, num_parameters: int, lora: bool = False) -> float:
        asked.append(num_parameters)
        return 1e-3

    monkeypatch.setattr("gnomon.stages.train.default_lr", rate)
    stage = tw.sft_stage(steps=1, lora={"rank": 2}, train={"lr": "auto"})
    made = parse_recipe(
        {"name": "run", "model": str(tiny_folder), "output": str(tmp_path), "stages": [stage]}
    )
    make_plan(made, tmp_path)
    run_recipe(made, base=tmp_path, announce=lambda text: None)
    assert len(asked) >= 2
    assert len(set(asked)) == 1
