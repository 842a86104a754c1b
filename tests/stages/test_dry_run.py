"""The dry run tells the truth: what can be used, what cannot and why, what is missing, how long."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import tiny_world as tw
from gnomon.errors import ConfigError, GnomonError
from gnomon.models.load import fetch, read_config
from gnomon.plan.cost import Speed
from gnomon.plan.job import Lengths
from gnomon.plan.shapes import shape_of_config
from gnomon.recipe.load import load_recipe, parse_recipe
from gnomon.recipe.schema import Recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages import usable
from gnomon.stages.clock import stage_seconds
from gnomon.stages.plan import make_plan, plan_parts
from gnomon.stages.run import run_recipe
from gnomon.stages.sizing import stage_job
from gnomon.stages.stage import open_stage, pick_device
from gnomon.stages.usable import Usable

ROOT = Path(__file__).parents[2]


def write(base: Path, name: str, *rows: Any) -> None:
    (base / name).write_text("\n".join(map(json.dumps, rows)) + "\n")


def demo(i: int, words: int = 1) -> dict[str, str]:
    return {"prompt": f"question {i} " + "word " * words, "completion": f"answer {i}"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write(tmp_path, "demos.jsonl", *map(demo, range(10)))
    write(tmp_path, "prompts.jsonl", *[{"prompt": f"question {i}"} for i in range(10)])
    (tmp_path / "mine.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
        "def score(samples, scale=1.0):\n    return [scale for s in samples]\n"
    )
    return tmp_path


def recipe(base: Path, model: Path, stage: dict[str, Any], **more: Any) -> Recipe:
    one = {"name": "s", "algorithm": "sft", "data": "demos.jsonl", "train": {"batch_size": 2}}
    raw = {"name": "run", "model": str(model), "max_length": 100, "output": str(base / "runs")}
    return parse_recipe({**raw, "stages": [{**one, **stage}], **more})


GRPO: dict[str, Any] = {
    "algorithm": "grpo",
    "data": "prompts.jsonl",
    "rollout": {"samples": 2, "max_new_tokens": 8},
    "train": {"steps": 2, "batch_size": 2},
}


def shown(recipe: Recipe, base: Path, code: bool = True) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*plan_parts(recipe, base, code), sep="\n")
    return console.export_text()


# -- rows -----------------------------------------------------------------------------------------


def test_the_plan_counts_what_a_run_trains_on(base: Path, tiny_folder: Path) -> None:
    write(base, "demos.jsonl", *map(demo, range(10)), *[demo(i, 200) for i in range(10, 14)])
    one = recipe(base, tiny_folder, {"holdout": 0.2, "train": {"batch_size": 2, "epochs": 2}})
    plan = make_plan(one, base)[0]
    assert plan.rows is not None
    assert plan.rows + plan.held_out == 10
    assert (plan.read, plan.skipped) == (14, 4)
    text = shown(one, base)
    assert f"{plan.rows} of 14" in text
    assert "4 x longer than 100 tokens" in text or "4 x " in text
    folder = run_recipe(one, base=base, announce=lambda said: None)
    info = json.loads((folder / "stages/01-s/stage.json").read_text())
    assert info["iterations"] == plan.iterations
    assert info["skipped"]["count"] == 4


@pytest.mark.parametrize("stage", [{}, {**GRPO, "reward": {"function": "mine.py:score"}}])
def test_too_many_rows_left_out_are_refused(
    base: Path, tiny_folder: Path, stage: dict[str, Any]
) -> None:
    rows = [demo(i, 200 if i >= 7 else 1) for i in range(64)]
    write(base, "demos.jsonl", *rows)
    write(base, "prompts.jsonl", *[{"prompt": row["prompt"]} for row in rows])
    one = recipe(base, tiny_folder, stage)
    with pytest.raises(GnomonError, match="57 of 64 rows cannot be used") as planned:
        make_plan(one, base)
    assert "max_length" in str(planned.value)
    assert "max_skipped" in str(planned.value)
    data = {"path": "prompts.jsonl" if stage else "demos.jsonl", "max_skipped": 0.95}
    allowed = recipe(base, tiny_folder, {**stage, "data": data})
    assert make_plan(allowed, base)[0].rows == 7


def test_a_holdout_that_leaves_nothing_is_found(base: Path, tiny_folder: Path) -> None:
    write(base, "demos.jsonl", demo(0))
    with pytest.raises(ConfigError, match="holdout"):
        make_plan(recipe(base, tiny_folder, {"holdout": 0.9}), base)


def test_of_very_many_rows_some_are_tokenised(
    base: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(base, "demos.jsonl", *[demo(i, 200 if i % 4 == 0 else 1) for i in range(400)])
    monkeypatch.setattr(usable, "TRIED", 40)
    plan = make_plan(recipe(base, tiny_folder, {}), base)[0]
    assert plan.rows == pytest.approx(300, abs=80)
    assert plan.estimated
    assert "about" in shown(recipe(base, tiny_folder, {}), base)


# -- what is missing or wrong ---------------------------------------------------------------------

KINDS = {
    "prompts for sft": ({"data": "tunnel:prompts"}, "holds prompts, and demonstrations"),
    "tasks for sft": ({"data": "agents:calculator"}, "holds prompts, and demonstrations"),
    "text for sft": ({"data": "tunnel:text"}, "holds text"),
    "demonstrations for dpo": (
        {"algorithm": "dpo", "data": "tunnel:demonstrations"},
        "holds demonstrations, and rankings",
    ),
    "instructions for kto": ({"algorithm": "kto", "data": "instructions:prompts"}, "holds prompts"),
    "prompts to normalise on": (
        {"algorithm": "reward_model", "data": "pairs.jsonl", "normalise_on": "tunnel:prompts"},
        "holds prompts, and demonstrations",
    ),
    "prompts to mix in": (
        {"pretraining": "tunnel:prompts", "settings": {"pretraining_coef": 0.1}},
        "and text are needed; take tunnel:text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS)
def test_a_wrong_kind_of_built_in_data(base: Path, tiny_folder: Path, case: str) -> None:
    write(base, "pairs.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"})
    stage, message = KINDS[case]
    for key in ("data", "normalise_on", "pretraining"):
        if str(stage.get(key, "")).split(":")[0] in ("tunnel", "agents", "instructions"):
            stage = {**stage, key: {"path": stage[key], "options": {"n": 5}}}
    one = recipe(base, tiny_folder, stage)
    with pytest.raises(ConfigError, match=message):
        make_plan(one, base)
    with pytest.raises(ConfigError, match=message):
        run_recipe(one, base=base, announce=lambda said: None)


REWARDS = {
    "an option of a function": ({"function": "mine.py:score", "options": {"scael": 2}}, "scael"),
    "an option of a builtin": ({"builtin": "maths", "options": {"feild": "a"}}, "feild"),
    "a value of a builtin": ({"builtin": "length", "options": {"target": "long"}}, "length"),
    "a field that is not there": (
        {"builtin": "maths", "options": {"field": "answre"}},
        "cannot judge 8 of 8 prompts.*answre.*answer",
    ),
    "code without tests": ({"builtin": "code"}, "cannot judge 2 of 2 prompts.*tests"),
    "the tunnel's gold elsewhere": ({"builtin": "gold"}, "cannot judge"),
}


@pytest.mark.parametrize("case", REWARDS)
@pytest.mark.parametrize("place", ["reward", "observe"])
def test_a_reward_that_cannot_work_here(
    base: Path, tiny_folder: Path, case: str, place: str
) -> None:
    write(base, "prompts.jsonl", *[{"prompt": f"q {i}", "answer": str(i)} for i in range(10)])
    reward, message = REWARDS[case]
    stage = {**GRPO, "reward": {"function": "mine.py:score", "name": "fine"}, place: reward}
    with pytest.raises(ConfigError, match=message):
        make_plan(recipe(base, tiny_folder, stage), base)


def test_a_reward_that_fits_is_let_through(base: Path, tiny_folder: Path) -> None:
    write(base, "prompts.jsonl", *[{"prompt": f"q {i}", "answer": str(i)} for i in range(10)])
    make_plan(recipe(base, tiny_folder, {**GRPO, "reward": {"builtin": "exact"}}), base)


@pytest.mark.parametrize("sink", ["wandb", "trackio", "tensorboard"])
def test_a_sink_that_is_not_installed_is_said_before_anything_is_trained(
    base: Path, tiny_folder: Path, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.training.sinks.find_spec", lambda name: None)
    one = recipe(base, tiny_folder, {}, sinks=[sink])
    for attempt in (make_plan, lambda r, b: run_recipe(r, base=b, announce=lambda said: None)):
        with pytest.raises(ConfigError, match=f"{sink} sink needs a package.*pip install"):
            attempt(one, base)
    assert not (base / "runs").exists()


def test_a_hub_id_needs_a_package(
    base: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.stages.check.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"someone/data.*pip install 'gnomon-rlhf\[hub\]'"):
        make_plan(recipe(base, tiny_folder, {"data": "someone/data"}), base)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_is_not_there(
    base: Path, tiny_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    one = recipe(base, tiny_folder, {}, device=kind)
    with pytest.raises(ConfigError, match=f"device: {kind}"):
        make_plan(one, base)
    with pytest.raises(ConfigError, match=f"device: {kind}"):
        run_recipe(one, base=base, announce=lambda said: None)


def test_auto_takes_cuda_and_nothing_that_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for there, taken in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == taken


# -- the recipe's own code ------------------------------------------------------------------------


def test_no_code_imports_nothing_of_the_recipes(base: Path, tiny_folder: Path) -> None:
    (base / "room.py").write_text((base / "mine.py").read_text() + "class Room: pass\n")
    stage = {
        **GRPO,
        "reward": {"function": "mine.py:score"},
        "environment": {"name": "room.py:Room", "max_episode_tokens": 16},
    }
    compare = {"prompts": "prompts.jsonl", "rewards": [{"function": "mine.py:score"}]}
    one = recipe(base, tiny_folder, stage, compare=compare)
    before = set(sys.modules)
    text = shown(one, base, code=False)
    assert not (base / "ran").exists()
    assert not {m for m in set(sys.modules) - before if m.startswith("gnomon_user")}
    assert "runs its author's code, which was not imported (--no-code)" in text
    assert "mine.py:score, room.py:Room" in text
    with pytest.raises(ConfigError, match="Room"):
        make_plan(one, base)  # it lacks reset and step
    assert (base / "ran").exists()


def test_no_code_imports_no_verifier(base: Path, tiny_folder: Path) -> None:
    function = str(base / "mine.py") + ":score"
    reward = {"builtin": "verifier", "options": {"function": function, "field": None}}
    text = shown(recipe(base, tiny_folder, {**GRPO, "reward": reward}), base, code=False)
    assert not (base / "ran").exists()
    assert "was not imported (--no-code)" in text
    assert "mine.py:score" in text


def test_the_plan_says_whose_code_it_ran(base: Path, tiny_folder: Path) -> None:
    text = shown(recipe(base, tiny_folder, {**GRPO, "reward": {"function": "mine.py:score"}}), base)
    assert "runs its author's code, which was imported just now" in text
    assert "author's code" not in shown(recipe(base, tiny_folder, {}), base)


@pytest.mark.parametrize("keeps", [True, False])
def test_the_plan_says_what_the_process_takes_beside_its_tensors(
    base: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    monkeypatch.setattr("gnomon.stages.plan.keeps_freed", lambda: keeps)
    text = " ".join(shown(recipe(base, tiny_folder, {}, device="cpu"), base).split())
    assert "the process itself (Python and torch) takes about 550 MB beside that" in text
    assert ("MALLOC_MMAP_THRESHOLD_=65536 before the command" in text) is keeps


# -- time -----------------------------------------------------------------------------------------

SPEED = Speed(flops=1e9, bandwidth=1e30, attention=1e30, queued=False)
"""Matrices alone take time."""


def seconds(stage: dict[str, Any], usable: Usable) -> float:
    raw = {"name": "s", "algorithm": "sft", "data": "x.jsonl", **stage}
    made = tw.make_recipe("tunnel", Path("runs"), raw)
    opened = open_stage(made, made.stages[0], RunFolder(made), Path())
    return stage_seconds(opened, stage_job(opened, usable.lengths), usable, 10, SPEED)


def test_the_arithmetic_of_training() -> None:
    rows = Usable(100, lengths=Lengths(40, 10, 40, 10))
    shape = shape_of_config(read_config(fetch("tunnel")))
    # 6 operations a token and weight, the head's for the 10 tokens that are learned; 16 rows
    trunk, head = shape.active_parameters - shape.embedding, shape.embedding
    found = seconds({}, rows)
    assert found == pytest.approx(10 * 6 * 16 * (50 * trunk + 10 * head) / 1e9)
    # checkpointing runs the trunk's forward pass twice
    again = {"train": {"gradient_checkpointing": True}}
    assert seconds(again, rows) - found == pytest.approx(10 * 2 * 16 * 50 * trunk / 1e9)
    # 8 held-out rows are looked at once: a forward pass
    looked = seconds({}, replace(rows, held_out=8)) - found
    assert looked == pytest.approx(2 * 8 * (50 * trunk + 10 * head) / 1e9)


def test_sampling_takes_time_too(base: Path, tiny_folder: Path) -> None:
    judged = {**GRPO, "reward": {"function": "mine.py:score"}}
    one = recipe(base, tiny_folder, judged)
    more = recipe(base, tiny_folder, {**judged, "rollout": {"samples": 32, "max_new_tokens": 60}})
    short, long = make_plan(one, base)[0].seconds, make_plan(more, base)[0].seconds
    assert short is not None
    assert long is not None
    assert long > 2 * short > 0
    assert "a rough estimate, between" in shown(one, base)


# -- the recipes that come with gnomon ------------------------------------------------------------

SHIPPED = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("src/gnomon/recipe/presets/*.yaml")])


@pytest.fixture(scope="module")
def untrained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a window as wide as a real one's."""
    folder = tmp_path_factory.mktemp("untrained") / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return folder


def test_no_recipe_names_a_place_outside_its_folder() -> None:
    for file in SHIPPED:
        assert "../" not in file.read_text(), file


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_passes_its_dry_run(
    file: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an untrained model in place of one that has to be fetched, and of many rows some."""
    monkeypatch.setattr(usable, "TRIED", 500)
    raw = load_recipe(file, [])
    stages = [
        s.model_copy(update={"from_": str(untrained)}) if s.from_ == raw.model else s
        for s in raw.stages
    ]
    fetched = raw.model not in ("tunnel", "none")
    one = raw.model_copy(
        update={"output": str(tmp_path), "device": "cpu"}
        | ({"model": str(untrained), "stages": stages} if fetched else {})
    )
    plans = make_plan(one, file.parent)
    assert [plan.stage.name for plan in plans] == [stage.name for stage in raw.stages]
    for plan in plans:
        assert plan.rows is None or plan.rows > 0 or not plan.stage.reads_data


def test_a_run_needs_no_database_and_nothing_that_serves() -> None:
    """Engines of their own environments run recipes, too, and have no sqlalchemy; what only servers
    and their clients need is imported by them alone."""
    code = (
        "import sys, gnomon.cli.main, gnomon.stages.engines, gnomon.stages.run;"
        "print({'sqlalchemy', 'fastapi', 'starlette', 'uvicorn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
