"""The command line end to end: what a user sees, and what bad input does."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from gnomon.cli.main import main


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything, on one line, since the console wraps long ones."""
        return " ".join((self.out + " " + self.err).split())


Run = Callable[..., Result]


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Runs ``gnomon ARGS`` in ``tmp_path`` as the shell would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: folder / "report.html")
    monkeypatch.setattr("gnomon.report.html.write_report", lambda folder: folder / "report.html")

    def run(*arguments: str) -> Result:
        monkeypatch.setattr("sys.argv", ["gnomon", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        seen = capsys.readouterr()
        return Result(code, seen.out, seen.err)

    return run


@pytest.fixture
def write(tmp_path: Path, tiny_folder: Path) -> Callable[..., str]:
    """Writes a recipe with one stage (sft on demos.jsonl, one step) and gives its name."""

    def make(stage: dict[str, Any] | None = None, **more: Any) -> str:
        base = {
            "name": "s",
            "algorithm": "sft",
            "data": "demos.jsonl",
            "train": {"steps": 1, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 1},
        }
        raw = {"name": "run", "model": str(tiny_folder), "max_length": 100}
        raw |= {"stages": [base | (stage or {})]} | more
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))
        return "recipe.yaml"

    return make


def rows(tmp_path: Path, name: str, *items: Any) -> None:
    lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
    (tmp_path / name).write_text("\n".join(lines) + "\n")


def good(n: int = 6) -> list[dict[str, str]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(n)]


def stage_json(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "runs" / "run" / "stages" / "01-s" / "stage.json").read_text())


def refused(result: Result, *parts: str) -> None:
    """Exit code 1, one message with these parts on standard error, no traceback."""
    assert result.code == 1, result.said
    assert "Traceback" not in result.said
    assert "error:" in result.err
    flat = " ".join(result.err.split())
    for part in parts:
        assert part in flat, f"{part!r} is not in {flat!r}"


# -- the way it should go -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_memory_that_is_out_is_said(
    gnomon: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("gnomon.cli.main.app", lambda: raise_(error))
    result = gnomon("report", "runs/mine")
    assert result.code == 1
    assert "out of memory" in result.said
    assert "--resume" in result.said
    monkeypatch.setattr("gnomon.cli.main.app", lambda: raise_(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes"):
        gnomon("report", "runs/mine")


def raise_(error: Exception) -> None:
    raise error


def test_a_run_tells_where_everything_is_and_resumes_to_nothing(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    rows(tmp_path, "demos.jsonl", *good())
    recipe = write()
    plan = gnomon("run", recipe, "--dry-run")
    assert plan.code == 0
    assert "nothing trained yet" in plan.out
    assert not (tmp_path / "runs").exists()
    first = gnomon("run", recipe)
    assert first.code == 0, first.said
    assert "s: " in first.out
    assert "loss" in first.out
    assert "report: runs/run/report.html" in first.said
    weights = (tmp_path / "runs/run/stages/01-s/model/model.safetensors").read_bytes()
    again = gnomon("run", recipe, "--resume")
    assert again.code == 0
    assert "done already" in again.out
    assert (tmp_path / "runs/run/stages/01-s/model/model.safetensors").read_bytes() == weights
    refused(gnomon("run", recipe), "already holds a run", "--resume", "name=")
    refused(gnomon("run", recipe, "seed=3", "--resume"), "another recipe", "seed")
    other = gnomon("run", recipe, "seed=3", "name=other")
    assert other.code == 0
    assert (tmp_path / "runs" / "other").is_dir()


def test_several_seeds_are_runs_of_their_own_and_one_table(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    rows(tmp_path, "demos.jsonl", *good())
    reward = "def long(samples):\n    return [float(len(s.text)) for s in samples]\n"
    (tmp_path / "mine.py").write_text(reward)
    compare = {
        "prompts": {"path": "demos.jsonl", "kind": "prompts"},
        "rewards": [{"function": "mine.py:long"}],
        "rollout": {"max_new_tokens": 3},
        "reference": "base",
    }
    recipe = write(compare=compare)
    plan = gnomon("run", recipe, "--seeds", "3,4", "--dry-run")
    assert plan.code == 0, plan.said
    assert "run-seed3: 1 stages" in plan.out
    assert "run-seed4: the same with seed=4" in plan.said
    refused(gnomon("run", recipe, "--seeds", "3,3", "--dry-run"), "different seeds")
    assert not (tmp_path / "runs").exists()
    taken = gnomon("run", recipe, "seed=5", "name=run-seed5")
    assert taken.code == 0, taken.said
    refused(gnomon("run", recipe, "--seeds", "3,5"), "run-seed5 already holds a run")
    assert not (tmp_path / "runs" / "run-seed3").exists()  # said before anything was trained
    done = gnomon("run", recipe, "--seeds", "3,4")
    assert done.code == 0, done.said
    assert "2 seeds" in done.out
    table = (tmp_path / "runs" / "run-seeds.md").read_text().splitlines()
    assert table[0].startswith("| model | long | gain in long | KL from base (nats) |")
    assert [line.split(" | ")[0] for line in table[2:4]] == ["| base", "| s"]
    for seed in (3, 4):
        written = yaml.safe_load((tmp_path / f"runs/run-seed{seed}/recipe.yaml").read_text())
        assert written["seed"] == seed
    again = gnomon("run", recipe, "--seeds", "3,4", "--resume")
    assert again.out.count("done already") == 2
    refused(gnomon("run", recipe, "--seeds", "3,3"), "different seeds")
    refused(gnomon("run", recipe, "--seeds", "a"), "whole numbers")
    refused(gnomon("run", write(), "--seeds", "3,4"), "compare section")


def test_runs_side_by_side(gnomon: Run, write: Callable[..., str], tmp_path: Path) -> None:
    rows(tmp_path, "demos.jsonl", *good())
    rows(tmp_path, "others.jsonl", *[{"prompt": f"what {i}", "completion": "x"} for i in range(6)])
    (tmp_path / "mine.py").write_text(
        "def asked(samples):\n"
        "    return [float(len(s.prompt.messages[0].content)) for s in samples]\n"
    )

    def runs(name: str, *changes: str) -> None:
        compare = {
            "prompts": {"path": "demos.jsonl", "kind": "prompts"},
            "rewards": [{"function": "mine.py:asked"}],
            "rollout": {"max_new_tokens": 3},
        }
        done = gnomon("run", write(compare=compare), f"name={name}", *changes)
        assert done.code == 0, done.said

    runs("one")
    runs("two", "s.train.lr=2e-3")
    runs("else", "compare.prompts.path=others.jsonl")
    beside = gnomon("report", "runs/one", "runs/two", "runs/else")
    assert beside.code == 0, beside.said
    (line,) = [line for line in beside.out.splitlines() if line.strip().startswith("asked")]
    # prompts are as long as themselves; paired, that is certain, and other prompts are shorter
    assert "0 n=6" in line
    assert re.search(r"-4(\.\d+)? ", line)
    assert "s.train.lr: 0.001, then 0.002" in beside.out
    assert "compare.prompts.0.path: demos.jsonl, then others.jsonl" in beside.out
    refused(gnomon("report", "runs/one", "runs/one"), "the same run is given twice")
    refused(gnomon("report", "runs/one", "runs/none"), "runs/none")


def test_a_stages_line_tells_what_was_held_out(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    rows(tmp_path, "demos.jsonl", *good(8))
    said = gnomon("run", write({"holdout": 0.3})).out
    assert "loss" in said
    assert "held out: loss" in said
    info = stage_json(tmp_path)
    assert f"held out: loss {info['held_out']['loss']:.3g}" in said
    rows(tmp_path, "pairs.jsonl", *[
        {"prompt": f"q {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(8)
    ])  # fmt: skip
    said = gnomon("run", write(PAIRS | {"holdout": 0.3}, name="rm")).said
    assert "held out: accuracy" in said
    assert said.split("held out: accuracy ")[1].split()[1].startswith("[")


def test_the_model_folder_is_plain_transformers(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    import transformers

    rows(tmp_path, "demos.jsonl", *good())
    assert gnomon("run", write()).code == 0
    folder = tmp_path / "runs/run/stages/01-s/model"
    transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert transformers.AutoTokenizer.from_pretrained(folder).chat_template


def test_help_and_lists(gnomon: Run) -> None:
    listed = gnomon("algorithms")
    assert listed.code == 0
    for name in ("sft", "reward_model", "ppo", "collect", "no_eos_penalty"):
        assert name in listed.out
    assert gnomon("--help").code == 0
    assert gnomon("run", "--help").code == 0
    assert gnomon("nonsense").code == 2


def test_a_help_text_breaks_where_the_terminal_does_and_its_examples_stay(
    gnomon: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    text = gnomon("label", "believe", "--help").out.split("╭")[0]
    lines = [line.strip() for line in text.splitlines()]
    broken = [a for a, b in pairwise(lines) if b and a and len(f"{a} {b.split()[0]}") <= 66]
    assert not broken
    assert "gnomon label believe votes.jsonl --json" in lines


# -- bad rows -------------------------------------------------------------------------------------


def test_bad_rows_are_skipped_counted_and_listed(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    rows(
        tmp_path,
        "demos.jsonl",
        *good(),
        {"prompt": "q", "completion": "   "},
        '{"prompt": "cut off',
        {"prompt": "word " * 200, "completion": "too long"},
        ["a list"],
    )
    result = gnomon("run", write())
    assert result.code == 0, result.said
    assert "4 rows skipped (see skipped.txt)" in result.out
    info = stage_json(tmp_path)
    assert info["skipped"]["count"] == 4
    listed = (tmp_path / "runs/run/stages/01-s/skipped.txt").read_text().splitlines()
    assert len(listed) == 4
    for number in (7, 8, 9, 10):
        line = next(line for line in listed if f"row {number}:" in line)
        assert "demos.jsonl" in line
        assert "(" in line  # the cure


def test_eval_size_counts_what_can_be_evaluated(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    def pairs(*prompts: str) -> list[dict[str, str]]:
        return [{"prompt": p, "chosen": "yes", "rejected": "no"} for p in prompts]

    rows(tmp_path, "train.jsonl", *pairs("a", "b", "c", "d"))
    rows(tmp_path, "test.jsonl", *pairs("word " * 200, "word " * 300, "e", "f", "g"))
    stage = {"algorithm": "dpo", "data": "train.jsonl", "eval_data": "test.jsonl"}
    stage["train"] = {"steps": 1, "batch_size": 2, "lr": 1e-3, "eval_size": 2}
    result = gnomon("run", write(stage))
    assert result.code == 0, result.said
    evals = json.loads((tmp_path / "runs/run/stages/01-s/evals.json").read_text())
    assert evals["held-out implicit reward"]["accuracy"]["n"] == pytest.approx(2)


PAIRS = {"name": "s", "algorithm": "reward_model", "data": "pairs.jsonl"}
BAD_DATA: dict[str, tuple[dict[str, Any], list[Any], tuple[str, ...]]] = {
    "misspelt field": (
        {},
        [{"promt": "q", "completion": "a"}] * 3,
        ("demos.jsonl", "did you mean", "prompt"),
    ),
    "all responses empty": (
        {},
        [{"prompt": "q", "completion": ""}] * 3,
        ("demos.jsonl", "row 1", "empty"),
    ),
    "all prompts too long": (
        {},
        [{"prompt": "word " * 200, "completion": "a"}] * 3,
        ("demos.jsonl, row 1", "max_length"),
    ),
    "empty file": ({}, [""], ("demos.jsonl", "no rows")),
    "wrong kind": ({}, [{"prompt": "q"}] * 3, ("demos.jsonl", "cannot be read as demonstrations")),
    "chosen is rejected": (
        PAIRS,
        [{"prompt": "q", "chosen": "same", "rejected": "same"}] * 3,
        ("pairs.jsonl, row 1", "same"),
    ),
    "unknown id in a ranking": (
        PAIRS,
        [
            {
                "prompt": "q",
                "responses": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}],
                "comparisons": [{"better": "a", "worse": "zz"}],
            }
        ]
        * 3,
        ("pairs.jsonl", "row 1", "zz"),
    ),
    "holdout takes all": ({"holdout": 0.9}, good(1), ("holdout",)),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_cannot_be_used_is_refused_with_file_row_and_cure(
    gnomon: Run, write: Callable[..., str], tmp_path: Path, case: str
) -> None:
    stage, items, parts = BAD_DATA[case]
    rows(tmp_path, stage.get("data", "demos.jsonl"), *items)
    refused(gnomon("run", write(stage)), *parts)


def test_a_missing_file_gets_its_neighbour(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    rows(tmp_path, "demos.jsonl", *good())
    refused(gnomon("run", write({"data": "demo.jsonl"})), "demo.jsonl", "Did you mean")


def test_a_tokenizer_without_a_template(
    gnomon: Run, write: Callable[..., str], tmp_path: Path, tiny_folder: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    rows(tmp_path, "demos.jsonl", *good())
    refused(gnomon("run", write(model="plain")), "no chat template", "template: chatml")


def test_a_pickle_is_never_read(
    gnomon: Run, write: Callable[..., str], tmp_path: Path, tiny_folder: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").rename(tmp_path / "old" / "pytorch_model.bin")
    rows(tmp_path, "demos.jsonl", *good())
    for more in ((), ("--dry-run",)):
        refused(gnomon("run", write(model="old"), *more), "pytorch_model.bin", "save_pretrained")


def test_unknown_keys_and_files(gnomon: Run, write: Callable[..., str]) -> None:
    recipe = write()
    refused(gnomon("run", "recpie.yaml"), "did you mean 'recipe.yaml'")
    refused(gnomon("run", recipe, "s.train.stps=3"), "did you mean 'steps'", "recipe.yaml")
    refused(gnomon("run", recipe, "s.settings.pretrain_coef=1"), "did you mean 'pretraining_coef'")
    refused(gnomon("quickstart", "quikstart"), "did you mean 'quickstart'")
    refused(gnomon("data", "inspect", "nothing.jsonl"), "nothing.jsonl", "no such file")


# -- rewards --------------------------------------------------------------------------------------

REWARDS = {
    "raises": ("raise ValueError('no luck')", ("8 of 8", "ValueError: no luck")),
    "none": ("return None", ("8 of 8", "returned NoneType")),
    "nan": ("return [float('nan')] * len(samples)", ("8 of 8", "nan")),
    "wrong length": ("return [1.0]", ("8 of 8", "returned 1 scores for 8 samples")),
    "wrong type": (
        "return ['good'] * len(samples)",
        ("8 of 8", "the reward is 'good', not a number"),
    ),
    "one in eight": (
        "return [1.0] * 7 + [None] if len(samples) == 8 else [1.0]",
        ("1 of 8", "the reward is None", "5% allowed"),
    ),
}
PPO = {
    "algorithm": "ppo",
    "data": "prompts.jsonl",
    "reward": {"function": "mine.py:score"},
    "rollout": {"max_new_tokens": 4},
    "train": {"steps": 2, "batch_size": 8, "lr": 1e-4, "checkpoint_every": 1},
}


@pytest.mark.parametrize("case", REWARDS)
def test_a_reward_that_fails_stops_the_run_and_loses_nothing(
    gnomon: Run, write: Callable[..., str], tmp_path: Path, case: str
) -> None:
    body, parts = REWARDS[case]
    (tmp_path / "mine.py").write_text(f"def score(samples):\n    {body}\n")
    rows(tmp_path, "prompts.jsonl", *[{"prompt": f"question {i}"} for i in range(8)])
    recipe = write(PPO)
    refused(gnomon("run", recipe), "iteration 1", *parts, "max_reward_errors", "--resume")
    assert stage_json(tmp_path)["status"] == "failed"
    samples = tmp_path / "runs/run/stages/01-s/samples.parquet"
    kept = pq.read_table(samples).to_pylist()
    assert len(kept) == 8
    assert any(row["error"] for row in kept)
    (tmp_path / "mine.py").write_text("def score(samples):\n    return [1.0] * len(samples)\n")
    mended = gnomon("run", recipe, "--resume")
    assert mended.code == 0, mended.said
    assert "reward 1" in mended.out
    assert stage_json(tmp_path)["status"] == "done"


def test_a_judge_that_fails_stops_collecting_and_keeps_what_was_judged(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    judge = (
        "calls = []\n"
        "def score(samples):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 1: raise RuntimeError('quota')\n"
        "    return [float(len(s.text)) for s in samples]\n"
    )
    (tmp_path / "mine.py").write_text(judge)
    rows(tmp_path, "prompts.jsonl", *[{"prompt": f"question {i}"} for i in range(6)])
    recipe = write(
        {
            "algorithm": "collect",
            "data": "prompts.jsonl",
            "reward": {"function": "mine.py:score"},
            "rollout": {"samples": 4, "max_new_tokens": 6},
            "settings": {"chunk": 2},
            "train": {},
        }
    )
    refused(gnomon("run", recipe), "the judge failed", "quota", "--resume")
    parts = sorted((tmp_path / "runs/run/stages/01-s/parts").iterdir())
    assert [p.name for p in parts] == ["00000000.jsonl"]
    first = parts[0].read_text()
    (tmp_path / "mine.py").write_text("def score(s):\n    return [float(len(x.text)) for x in s]\n")
    assert gnomon("run", recipe, "--resume").code == 0
    assert parts[0].read_text() == first
    groups = (tmp_path / "runs/run/stages/01-s/groups.jsonl").read_text().splitlines()
    assert len(groups) + stage_json(tmp_path)["skipped"]["count"] == 6


def test_a_stage_goes_on_with_the_data_it_was_begun_with(
    gnomon: Run, write: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def score(samples):\n    return None\n")
    prompts = [{"prompt": f"question {i}"} for i in range(8)]
    rows(tmp_path, "prompts.jsonl", *prompts)
    recipe = write(PPO)
    assert gnomon("run", recipe).code == 1
    (tmp_path / "mine.py").write_text("def score(samples):\n    return [1.0] * len(samples)\n")
    rows(tmp_path, "prompts.jsonl", *prompts, {"prompt": "one more"})
    refused(gnomon("run", recipe, "--resume"), "prompts.jsonl changed", "name=")
    rows(tmp_path, "prompts.jsonl", *prompts)
    assert gnomon("run", recipe, "--resume").code == 0


# -- the disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["step-000002", "model"])
def test_a_full_disk_stops_with_what_to_do_and_the_rest_goes_on(
    gnomon: Run,
    write: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    rows(tmp_path, "demos.jsonl", *good())
    recipe = write({"train": {"steps": 2, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 1}})
    straight = gnomon("run", recipe, "name=straight")
    assert straight.code == 0
    real = os.fsync

    def full(fd: int) -> None:
        if f".{place}.tmp" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(gnomon("run", recipe), "disk is full", place, "Free some space", "--resume")
    assert stage_json(tmp_path)["status"] == "failed"
    assert gnomon("run", recipe, "--resume").code == 0
    weights = "stages/01-s/model/model.safetensors"
    one, other = (tmp_path / "runs" / name / weights for name in ("run", "straight"))
    assert one.read_bytes() == other.read_bytes()


def test_markup_in_a_message_is_shown_as_it_stands(gnomon: Run, write: Callable[..., str]) -> None:
    refused(gnomon("run", write({"data": "[red]x.jsonl"})), "[red]x.jsonl")
