"""``gnomon.train``: the recipe that it builds, and the run that it leaves."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict

import gnomon
from command import runs
from gnomon.api.keywords import plain
from gnomon.errors import ConfigError, DataError, GnomonError, ModelError, RunStopped
from gnomon.runs.records import plain_recipe
from gnomon.stages.run import run_recipe
from gnomon.tasks.tunnel.tokenizer import build_tokenizer
from tiny_world import tiny_model, tokenizer

PAIRS = [
    {"prompt": f"Name a colour, {i}.", "chosen": "Blue.", "rejected": "Seven."} for i in range(8)
]
QUESTIONS = [{"prompt": f"What is {i}?", "answer": i, "category": "sums"} for i in range(4)]
SMALL: dict[str, Any] = {"steps": 2, "batch_size": 2, "lr": 1e-3, "max_length": 96}
SAMPLED: dict[str, Any] = {**SMALL, "samples": 2, "max_new_tokens": 4, "probes": 0}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shortness(completions: list[str], answer: list[int], **columns: Any) -> list[float]:
    assert columns["category"] == ["sums"] * len(completions)
    return [1.0 / (1 + len(c)) for c in completions]


class Stops(gnomon.Callback):  # type: ignore[misc, name-defined]
    """Stops after an iteration, once."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, event: Any) -> None:
        self.steps.append(event.iteration)
        if self.steps == [1]:
            event.stop("enough for today")


# -- the same as YAML ------------------------------------------------------------------------------


def test_it_is_the_run_that_the_recipe_in_yaml_makes(tiny_folder: Path, tmp_path: Path) -> None:
    run = gnomon.train(
        "dpo",
        model=str(tiny_folder),
        data=Dataset.from_list(PAIRS),
        held_out=PAIRS[:2],
        beta=0.2,
        seed=3,
        **SMALL,
    )
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS[:2]))
    written = gnomon.Recipe(
        name="yaml",
        model=str(tiny_folder),
        seed=3,
        max_length=96,
        stages=[
            {
                "name": "dpo",
                "algorithm": "dpo",
                "data": "pairs.jsonl",
                "eval_data": "held.jsonl",
                "settings": {"beta": 0.2},
                "train": {"steps": 2, "batch_size": 2, "lr": 1e-3},
            }
        ],
    )
    mine, theirs = plain_recipe(run.recipe), plain_recipe(written)
    for key in ("data", "eval_data"):
        assert Path(mine["stages"][0].pop(key)[0]["path"]).parent.name == "inputs"
        theirs["stages"][0].pop(key)
    assert mine == {**theirs, "name": "dpo"}
    same = run_recipe(written, base=tmp_path)
    one, other = (
        pq.read_table(f / "stages/01-dpo/metrics.parquet").column("loss").to_pylist()
        for f in (run.folder, same)
    )
    assert one == other
    assert one[0] is not None


def test_a_model_in_memory_is_kept_and_the_run_needs_it_no_more(tmp_path: Path) -> None:
    model = tiny_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run = gnomon.train("dpo", model=model, tokenizer=tokenizer(), data=PAIRS, **SMALL)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert run.recipe.model == str(run.folder / "inputs" / "model")
    moved = [
        not torch.equal(v, before[k]) for k, v in run.model.state_dict().items() if k in before
    ]
    assert any(moved)
    assert type(run.model).__module__.startswith("transformers.")
    assert run.tokenizer.get_vocab() == tokenizer().get_vocab()
    again = gnomon.train("dpo", model=model, tokenizer=tokenizer(), data=PAIRS, **SMALL)
    assert (again.name, again.metrics["loss"]) == ("dpo-2", run.metrics["loss"])


def test_another_tokenizer_for_a_folder(tiny_folder: Path) -> None:
    other = build_tokenizer()
    other.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    run = gnomon.train("sft", model=tiny_folder, tokenizer=other, data=_answers(), **SMALL)
    assert run.tokenizer.chat_template.startswith(other.chat_template)
    assert run.recipe.model == str(run.folder / "inputs" / "model")
    assert not (run.folder / "inputs" / "model" / "optimizer.pt").exists()


def _answers() -> list[dict[str, str]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]


# -- rewards ---------------------------------------------------------------------------------------


def test_a_reward_of_trls_and_one_of_gnomons_with_weights(tiny_folder: Path) -> None:
    def words(samples: Any) -> list[float]:
        return [float(len(s.text.split())) for s in samples]

    run = gnomon.train(
        "grpo",
        model=str(tiny_folder),
        data=QUESTIONS,
        rewards=[shortness, (words, 0.5)],
        observe=lambda completions: [0.0] * len(completions),
        **SAMPLED,
    )
    entries = run.recipe.stages[0].reward
    assert entries[0].function == f"{Path(__file__).resolve()}:shortness"
    assert (entries[1].function, entries[1].weight) == ("python:words", 0.5)
    for row in run.samples.to_pylist():
        parts = json.loads(row["parts"])
        assert parts["shortness"] == pytest.approx(1.0 / (1 + len(row["response"])))
        assert row["reward"] == pytest.approx(parts["shortness"] + 0.5 * parts["words"])
    assert {"reward/shortness", "reward/words", "lambda"} <= set(run.metrics.column_names)


def test_a_column_that_a_path_lacks_and_one_that_batches_lack(tiny_folder: Path) -> None:
    rows = [{"prompt": f"What is {i}?", "tests": "x" if i == 0 else None} for i in range(4)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def passes(completions: list[str], tests: list[str | None]) -> list[float | None]:
        return [None if t is None else 1.0 for t in tests]

    def length(**columns: Any) -> list[float]:
        return [float(len(c)) for c in columns["completions"]]

    def train(*rewards: Any) -> gnomon.Run:
        keys = {**SAMPLED, "batch_size": 1, "steps": 3}
        return gnomon.train(
            "grpo", model=str(tiny_folder), data="rows.jsonl", rewards=[*rewards], **keys
        )

    assert train(passes, length).metrics.num_rows == 3
    with pytest.raises(ConfigError, match=r"'passed' needs the column 'test', .*'tests'"):
        train({"function": lambda completions, test: [], "name": "passed"}, length)


def test_a_stopped_run_goes_on_and_says_what_it_needs(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def length(completions: list[str]) -> list[float]:
        return [float(len(c)) for c in completions]

    def train(name: str, *callbacks: Any) -> gnomon.Run:
        return gnomon.train(
            "grpo",
            model=str(tiny_folder),
            data=QUESTIONS,
            rewards=length,
            name=name,
            callbacks=callbacks,
            **SAMPLED,
        )

    with pytest.raises(RunStopped, match=r"enough for today.*gnomon.Run\('runs/cut'\).resume\(\)"):
        train("cut", Stops())
    run = gnomon.Run("runs/cut")
    assert "stopped" in run._repr_html_()
    with pytest.raises(gnomon.errors.RunError, match="no model"):
        _ = run.model
    command = runs(Path.cwd(), monkeypatch, capsys, "run")
    code, said = command("runs/cut/recipe.yaml", "--resume")
    assert code == 2 or code == 1
    assert "length was passed from Python and is in no file" in said
    with pytest.raises(ConfigError, match="passed from Python"):
        run.resume()
    seen = Stops()
    seen.steps.append(0)
    run.resume(passed=[length], callbacks=[seen])
    assert seen.steps == [0, 2]
    whole = train("whole")
    assert run.metrics["reward"] == whole.metrics["reward"]
    assert run.metrics["loss"] == whole.metrics["loss"]


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("dpo", PAIRS),
        ("sft", [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]),
    ],
)
def test_a_stopped_run_that_samples_nothing_goes_on(
    method: str, rows: list[dict[str, str]], tiny_folder: Path
) -> None:
    """Its recipe.yaml has every default written out, those of ``rollout`` as well."""
    with pytest.raises(RunStopped):
        gnomon.train(
            method, model=str(tiny_folder), data=rows, name="x", callbacks=[Stops()], **SMALL
        )
    run = gnomon.Run("runs/x").resume()
    assert run.metrics["iteration"].to_pylist()[-1] == SMALL["steps"]


def test_a_second_run_of_the_same_cell(tiny_folder: Path) -> None:
    def train(**more: Any) -> gnomon.Run:
        return gnomon.train("dpo", model=str(tiny_folder), data=PAIRS, **SMALL, **more)

    first = train(name="mine")
    with pytest.raises(ConfigError, match=r"already holds a run.*resume=True.*overwrite=True"):
        train(name="mine")
    before = (first.folder / "manifest.json").stat().st_mtime_ns
    assert train(name="mine", resume=True).folder == first.folder
    assert train(name="mine", overwrite=True, seed=1).recipe.seed == 1
    assert (first.folder / "manifest.json").stat().st_mtime_ns > before
    with pytest.raises(ConfigError, match="give one of them"):
        train(name="mine", overwrite=True, resume=True)
    with pytest.raises(DataError, match="no rows"):
        gnomon.train("dpo", model="tunnel", data=[], name="mine", overwrite=True)
    with pytest.raises(DataError, match="cannot be read as rankings"):
        gnomon.train("dpo", model=tiny_folder, data=QUESTIONS, name="mine", overwrite=True)
    assert gnomon.Run(first.folder).recipe.seed == 1
    assert sorted(path.name for path in Path("runs").iterdir()) == [".cache", "mine"]
    Path("runs/notes").mkdir()
    Path("runs/notes/diary.txt").write_text("dear diary")
    with pytest.raises(ConfigError, match="holds no run"):
        train(name="notes", overwrite=True)
    assert Path("runs/notes/diary.txt").read_text() == "dear diary"


def test_one_callback_needs_no_list(tiny_folder: Path) -> None:
    stops = Stops()
    with pytest.raises(RunStopped):
        gnomon.train("dpo", model=str(tiny_folder), data=PAIRS, name="x", callbacks=stops, **SMALL)
    gnomon.Run("runs/x").resume(callbacks=stops)
    assert stops.steps == [1, 2]


def test_a_run_goes_on_with_what_it_began_with() -> None:
    def train(data: Any = PAIRS, seed: int = 0, **more: Any) -> gnomon.Run:
        model = tiny_model(seed=seed)
        return gnomon.train(
            "dpo", model=model, tokenizer=tokenizer(), data=data, name="x", **SMALL, **more
        )

    train()
    train(resume=True)
    with pytest.raises(ConfigError, match="data differs from what the run began with"):
        train(PAIRS[1:], resume=True)
    with pytest.raises(ConfigError, match="model has other weights"):
        train(seed=1, resume=True)


def test_a_folder_that_holds_no_run_keeps_what_is_in_it(tiny_folder: Path) -> None:
    mine = {"exp/inputs/pairs.jsonl": "mine", "bare/.git/HEAD": "mine", "proj/recipe.yaml": "mine"}
    for name, text in mine.items():
        (Path("runs") / name).parent.mkdir(parents=True)
        (Path("runs") / name).write_text(text)
    for name in ("exp", "proj"):
        with pytest.raises(ConfigError, match="holds no run"):
            gnomon.train("dpo", model=tiny_folder, data=PAIRS, name=name, overwrite=True, **SMALL)
    with pytest.raises(DataError, match="cannot be read as rankings"):
        gnomon.train("dpo", model=tiny_folder, data=QUESTIONS, name="bare", **SMALL)
    assert {str(p.relative_to("runs")) for p in Path("runs").rglob("[!.]*") if p.is_file()} == {
        *mine
    }


KILLED = """
import os, signal, sys
import gnomon
from gnomon.api import train

def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)

train.start = dies
gnomon.train("dpo", model=sys.argv[1], data=[{"prompt": "a", "chosen": "b", "rejected": "c"}],
             **({"name": sys.argv[2], "overwrite": True} if sys.argv[2] else {}), steps=1)
"""


def _killed(model: Path, name: str) -> None:
    """A call that dies when its inputs are written and its run has not begun."""
    died = subprocess.run([sys.executable, "-c", KILLED, str(model), name], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr


def test_what_a_killed_call_left_is_cleared_away_by_the_next(tiny_folder: Path) -> None:
    _killed(tiny_folder, "")
    _killed(tiny_folder, "mine")
    for name in ("dpo", "mine"):
        assert (Path("runs") / name / "inputs" / "data.jsonl").is_file()
    assert gnomon.train("dpo", model=tiny_folder, data=PAIRS, **SMALL).name == "dpo"
    run = gnomon.train("dpo", model=tiny_folder, data=PAIRS, name="mine", **SMALL)
    assert not (run.folder / ".begun.json").exists()
    # a run that was to be overwritten comes back
    loss = run.metrics["loss"]
    _killed(tiny_folder, "mine")
    assert not (Path("runs") / "mine" / "recipe.yaml").exists()
    with pytest.raises(ConfigError, match="already holds a run"):
        gnomon.train("dpo", model=tiny_folder, data=PAIRS, name="mine", **SMALL)
    assert gnomon.train("dpo", model=tiny_folder, data=PAIRS, name="mine", resume=True,
                        **SMALL).metrics["loss"] == loss  # fmt: skip


def test_what_lies_beside_a_killed_calls_leftovers_stays(tiny_folder: Path) -> None:
    _killed(tiny_folder, "mine")
    (Path("runs") / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds no run"):
        gnomon.train("dpo", model=tiny_folder, data=PAIRS, name="mine", **SMALL)
    assert (Path("runs") / "mine" / "thesis.tex").read_text() == "years of work"


# -- bad input -------------------------------------------------------------------------------------


BAD: dict[str, tuple[dict[str, Any], type[GnomonError], str]] = {
    "unknown keyword": (
        {"stepps": 2},
        ConfigError,
        "unknown keyword 'stepps'; did you mean 'steps'",
    ),
    "another trainer's": (
        {"learning_rate": 1e-5},
        ConfigError,
        "TRL, Axolotl, LLaMA-Factory and OpenRLHF. is the keyword lr here",
    ),
    "another's setting": ({"gamma": 1.0}, ConfigError, "unknown keyword 'gamma'"),
    "a bad value": ({"beta": "high"}, ConfigError, r"beta: Input should be a valid number.*'high'"),
    "too small": ({"batch_size": 0}, ConfigError, "train.batch_size.*greater than or equal to 1"),
    "no mapping": ({"train": 3}, ConfigError, "train is a mapping"),
    "LoRA by accident": ({"dropout": 0.1}, ConfigError, "dropout is a key of lora"),
    "given twice": ({"train": {"steps": 2}}, ConfigError, "steps is given twice"),
    "a function": ({"template": len}, ConfigError, "functions are for rewards"),
    "no rows": ({"data": []}, DataError, "data has no rows"),
    "no dicts": ({"data": ["Hello"]}, DataError, "row 1 is a str, not a dict"),
    "no data": ({"data": None}, ConfigError, "no data"),
    "no such file": ({"data": "pears.jsonl"}, GnomonError, "pears.jsonl"),
    "a number": ({"data": 7}, DataError, "data is a int; it is a path"),
    "a function in a row": ({"data": [{"prompt": len}]}, DataError, "row 1: column 'prompt' holds"),
    "splits": (
        {"data": DatasetDict(train=Dataset.from_list(PAIRS))},
        DataError,
        r"DatasetDict with the splits 'train'.*data=dataset\['train'\]",
    ),
    "missing columns": (
        {"data": [{"prompt": "a", "choosen": "b", "rejected": "c"}]},
        DataError,
        "columns.*'choosen': did you mean 'chosen'",
    ),
    "another kind": ({"data": QUESTIONS}, DataError, "data: holds .*cannot be read as rankings"),
    "a reward for DPO": ({"rewards": "length"}, ConfigError, "uses no reward"),
    "a name": ({"name": "my/run"}, ConfigError, "a run's name is letters"),
    "no model": ({"model": 3}, ConfigError, "model is a int"),
    "no text": ({"model": torch.nn.Linear(2, 2)}, ConfigError, "model is a Linear"),
    "no tokenizer": ({"model": tiny_model()}, ConfigError, "needs its tokenizer"),
    "not a tokenizer": ({"tokenizer": 5}, ConfigError, "tokenizer is a int"),
    "two names": ({"held_out": PAIRS, "eval_data": PAIRS}, ConfigError, "two names for the same"),
    "resume what": ({"resume": True}, ConfigError, "give name="),
    "no folder": ({"output": 5}, ConfigError, "output is a int"),
    "no text as a name": ({"name": 5}, ConfigError, "name is a int"),
    "no callback": ({"callbacks": 5}, ConfigError, "5 is no callback"),
    "a class": ({"callbacks": [Stops]}, ConfigError, r"Stops is a class; give Stops\(\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_said_in_words_and_leaves_nothing(case: str, tiny_folder: Path) -> None:
    given, kind, said = BAD[case]
    with pytest.raises(kind, match=f"(?s){said}") as caught:
        gnomon.train("dpo", **{"model": str(tiny_folder), "data": PAIRS, **SMALL, **given})
    assert "pydantic" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert list(Path("runs").glob("*")) == []


REWARDS: dict[str, tuple[Any, str]] = {
    "no parameter": (lambda: [1.0], "takes a list of samples"),
    "two": (lambda samples, other: [1.0], "takes a list of samples"),
    "a column": (lambda completions, anwser: [1.0], "the column 'anwser'.*did you mean 'answer'"),
    "misspelt": ("lenght", "neither a builtin reward nor a folder; did you mean 'length'"),
    "a number": (7, "7 is no reward"),
    "a model": (tiny_model(), "in memory: save it"),
    "twice": ([lambda samples: [1.0], lambda samples: [0.0]], "two different objects"),
    "none": (None, "needs a reward"),
}


@pytest.mark.parametrize("case", REWARDS)
def test_a_bad_reward(case: str, tiny_folder: Path) -> None:
    rewards, said = REWARDS[case]
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        gnomon.train("grpo", model=str(tiny_folder), data=QUESTIONS, rewards=rewards, **SAMPLED)
    assert list(Path("runs").glob("*")) == []


def test_a_reward_of_the_wrong_length(tiny_folder: Path) -> None:
    with pytest.raises(GnomonError, match=r"returned 1 rewards for 4 completions") as caught:
        gnomon.train(
            "grpo",
            model=str(tiny_folder),
            data=QUESTIONS,
            rewards=lambda completions: [1.0],
            **SAMPLED,
        )
    assert "gnomon.Run('runs/grpo').resume()" in str(caught.value)


def test_a_model_without_a_template(tiny_folder: Path) -> None:
    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(DataError, match="template"):
        gnomon.train("dpo", model=tiny_folder, tokenizer=bare, data=PAIRS, **SMALL)
    assert list(Path("runs").glob("*")) == []


def test_a_model_wrapped_by_peft() -> None:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ModelError, match=r"merge_and_unload\(\).*lora="):
        gnomon.train("dpo", model=wrapped, tokenizer=tokenizer(), data=PAIRS)


def test_a_keyword_of_two_places(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"epochs is a key of settings and of train.*train=\{"):
        gnomon.train("grpo", model=str(tiny_folder), data=QUESTIONS, rewards="length", epochs=1)


# -- completion ------------------------------------------------------------------------------------


def test_a_set_has_one_order_in_the_recipe() -> None:
    words = [f"word {i}" for i in range(40)]
    assert plain("stop", set(words)) == sorted(words)
    assert plain("stop", frozenset(words)) == sorted(words)


def test_each_method_completes_its_own_keywords() -> None:
    dpo = inspect.signature(gnomon.train.dpo).parameters
    assert {"model", "data", "beta", "lr", "rank", "max_length", "holdout", "train"} <= dpo.keys()
    assert "method" not in dpo
    assert dpo["beta"].default == 0.1
    assert "clip_eps" not in dpo
    assert "clip_eps" in inspect.signature(gnomon.train.ppo).parameters
    assert {"method", "lr", "max_new_tokens"} <= inspect.signature(gnomon.train).parameters.keys()
    assert "strength of the tie to the reference" in str(gnomon.train.dpo.__doc__)


def test_what_it_writes_is_a_recipe_of_its_own(tiny_folder: Path) -> None:
    run = gnomon.train.sft(
        model=str(tiny_folder), data=_answers(), rank=4, gates="loss <= 100 (value)", **SMALL
    )
    raw = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert raw["stages"][0]["lora"]["rank"] == 4
    assert raw["stages"][0]["gates"] == ["loss <= 100 (value)"]
