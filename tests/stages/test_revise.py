"""The revise stage: rows and their steps, critics of every kind, failures, resuming, mixing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from killing import CONTEXT, run_and_die

import tiny_world
from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError, GnomonError, RunError
from gnomon.feedback.constitution import read_constitution
from gnomon.judges.critics import EndpointCritic, Task
from gnomon.judges.prompting import Question
from gnomon.recipe.load import parse_recipe
from gnomon.records import Message, Prompt
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_recipe
from gnomon.stages.plan import make_plan
from gnomon.stages.run import run_recipe
from judge_server import JudgeServer, Said, answers, says

HELPFUL = {"path": "tunnel:demonstrations", "options": {"n": 4, "seed": 1}}
ENDS = {"max_new_tokens": 48, "stop": ["a", "e", "i", "o"]}
"""A random model does not end by itself."""
PROMPTS = {"path": "tunnel:forbidden", "options": {"n": 6, "seed": 2}}


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: None)


def raw_recipe(model: Path, output: Path, *more: Any, **settings: Any) -> dict[str, Any]:
    known = {"constitution": "tunnel", "critic": "tunnel", "chunk": 2, "critique_tokens": 6}
    stage = {
        "name": "revised",
        "algorithm": "revise",
        "data": PROMPTS,
        "rollout": {"max_new_tokens": 6},
        "settings": known | settings,
    }
    listed = {"name": "run", "model": str(model), "output": str(output), "max_length": 256}
    return listed | {"stages": [stage, *more]}


def run(raw: Mapping[str, Any], resume: bool = False, base: Path | None = None) -> Path:
    recipe = parse_recipe(dict(raw))
    run_recipe(recipe, base=base or Path.cwd(), resume=resume, announce=lambda text: None)
    return Path(recipe.output) / recipe.name


def rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "stages/01-revised/groups.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def info(folder: Path, stage: str = "01-revised") -> dict[str, Any]:
    return dict(json.loads((folder / "stages" / stage / "stage.json").read_text()))


def program(folder: Path, body: str) -> dict[str, str]:
    """A critic of the recipe's own."""
    (folder / "own.py").write_text(f"def critic(tasks):\n    {body}\n")
    return {"function": f"{folder}/own.py:critic"}


CUTS = "return ['It is long.' if t.kind == 'critique' else 'No.' for t in tasks]"


# -- what it writes --------------------------------------------------------------------------------


def test_every_step_is_kept_with_its_principle_and_version(
    tmp_path: Path, tiny_folder: Path
) -> None:
    critic = program(tmp_path, "return [f'{t.kind} of {t.answer[:3]!r}' for t in tasks]")
    folder = run(raw_recipe(tiny_folder, tmp_path, rounds=2, critic=critic))
    found = read_constitution("tunnel")
    seed = info(folder)["compute"] and parse_recipe(raw_recipe(tiny_folder, tmp_path)).seed * 101
    made = rows(folder)
    assert len(made) == 6
    for row in made:
        about = row["revisions"]
        first, second = about["steps"]
        assert first["critique"] == f"critique of {about['answer'][:3]!r}"
        assert second["critique"] == f"critique of {first['revision'][:3]!r}"
        assert row["responses"] == [{"id": "revision", "text": second["revision"]}]
        assert about["constitution"] == f"tunnel@{found.version}"
        for step in (first, second):
            drawn = found.draw(seed, row["id"], step["round"])
            assert step["principle"] == found.label(drawn)
    ids = {step["principle"] for row in made for step in row["revisions"]["steps"]}
    assert len(ids) > 1


def test_sft_learns_the_revisions_and_helpful_data_beside_them(
    tmp_path: Path, tiny_folder: Path
) -> None:
    sft = {
        "name": "sft",
        "algorithm": "sft",
        "data": ["stage:revised", HELPFUL],
        "train": {"steps": 1, "batch_size": 2, "lr": 1e-3},
    }
    folder = run(raw_recipe(tiny_folder, tmp_path, sft, critic=program(tmp_path, CUTS)))
    data = json.loads((folder / "stages/02-sft/data.json").read_text())
    assert {k: v["rows"] for k, v in data.items()} == {
        "stage:revised": 6,
        "tunnel:demonstrations": 4,
    }
    read = read_groups(folder / "stages/01-revised/groups.jsonl", kind="demonstrations")
    assert [g.responses[0].text for g in read.groups] == ["No."] * 6
    assert read.groups[0].prompt.meta["family"] == "secrets"
    assert info(folder, "02-sft")["status"] == "done"


def test_a_pair_has_the_answer_as_the_worse_one(tmp_path: Path, tiny_folder: Path) -> None:
    critic = program(tmp_path, CUTS)
    folder = run(raw_recipe(tiny_folder, tmp_path, keep="pair", critic=critic))
    read = read_groups(folder / "stages/01-revised/groups.jsonl", kind="preferences")
    assert len(read.groups) == 6
    for group, row in zip(read.groups, rows(folder), strict=True):
        (one,) = group.comparisons
        assert group.responses[one.better].text == "No."
        assert group.responses[one.worse].text == row["revisions"]["answer"].strip()


def test_without_a_critique_it_revises_at_once(tmp_path: Path, tiny_folder: Path) -> None:
    critic = program(tmp_path, "return [f'{t.kind}: {t.critique!r}' for t in tasks]")
    folder = run(raw_recipe(tiny_folder, tmp_path, critique=False, critic=critic))
    assert {row["responses"][0]["text"] for row in rows(folder)} == {"revision: ''"}
    assert "critique" not in rows(folder)[0]["revisions"]["steps"][0]


def test_several_samples_are_rows_of_their_own(tmp_path: Path, tiny_folder: Path) -> None:
    raw = raw_recipe(tiny_folder, tmp_path, critic=program(tmp_path, CUTS))
    raw["stages"][0]["rollout"]["samples"] = 2
    ids = [row["id"] for row in rows(run(raw))]
    assert len(ids) == len(set(ids)) == 12
    assert ids[:2] == ["forbidden-train-2-0/0", "forbidden-train-2-0/1"]


def test_collapse_is_counted_and_told(tmp_path: Path, tiny_folder: Path) -> None:
    raw = raw_recipe(tiny_folder, tmp_path, critic=program(tmp_path, CUTS), chunk=24)
    raw["stages"][0]["data"] = {"path": "tunnel:forbidden", "options": {"n": 24, "seed": 2}}
    summary = info(run(raw))["summary"]
    assert summary["one_text"] == 1.0
    assert summary["changed"] == 1.0
    assert summary["changed_low"] < 1.0
    assert any("100% of the revisions are one text, 'No.'" in w for w in summary["warnings"])
    same = program(
        tmp_path, "return [t.answer if t.kind == 'revision' else 'Fine.' for t in tasks]"
    )
    raw["stages"][0]["rollout"] = ENDS
    raw["stages"][0]["settings"]["critic"] = same
    raw["name"] = "again"
    summary = info(run(raw))["summary"]
    assert summary["changed"] == 0.0
    assert any("are the answer itself" in w for w in summary["warnings"])


# -- who criticises --------------------------------------------------------------------------------


@pytest.fixture
def roomy_folder(tmp_path: Path) -> Path:
    """A tiny model whose window holds a critic's question."""
    model = tiny_world.tiny_model()
    model.config.max_position_embeddings = 2048
    model.save_pretrained(tmp_path / "roomy")
    tiny_world.tokenizer().save_pretrained(tmp_path / "roomy")
    return tmp_path / "roomy"


def test_the_policy_is_its_own_critic_and_its_tokens_are_counted(
    tmp_path: Path, roomy_folder: Path
) -> None:
    raw = raw_recipe(roomy_folder, tmp_path, critic="policy", examples=0)
    raw["max_length"] = 2048
    raw["stages"][0]["rollout"] = ENDS
    folder = run(raw)
    took = info(folder)["judges"]["critic"]
    assert took["judged"] == 12
    assert took["tokens"] > 12 * 60  # each question is longer than that
    assert took["version"].startswith("the policy ")
    compute = info(folder)["compute"]
    assert compute["forward"]["sampler"] > took["tokens"]


def test_a_question_that_does_not_fit_leaves_its_answer_out(
    tmp_path: Path, tiny_folder: Path
) -> None:
    raw = raw_recipe(tiny_folder, tmp_path, critic="policy")
    with pytest.raises(RunError, match=r"longer than 250 tokens \(raise max_length"):
        run(raw)


def test_another_model_in_this_process_may_be_the_critic(
    tmp_path: Path, roomy_folder: Path
) -> None:
    raw = raw_recipe(roomy_folder, tmp_path, critic={"local": str(roomy_folder)}, examples=0)
    raw["max_length"] = 2048
    raw["stages"][0]["rollout"] = ENDS
    folder = run(raw)
    took, compute = info(folder)["judges"]["critic"], info(folder)["compute"]
    assert compute["forward"]["critic"] == took["tokens"] > 0
    assert compute["forward"]["sampler"] < took["tokens"]
    assert compute["parameters"]["critic"] > 0


def model_rule(text: str, body: dict[str, Any]) -> Said:
    """A critic that says how long an answer is, and says less."""
    shown = answers(text)[-1]
    said = f"{len(shown)} characters" if "You check" in text else f"Less than {len(shown)}"
    return Said([said], [{said: 1.0}])


def endpoint(url: str, **options: Any) -> dict[str, Any]:
    return {"model": "m", "options": {"url": url, "retries": 0, "concurrency": 1} | options}


def test_an_endpoint_criticises_and_its_price_is_counted(tmp_path: Path, tiny_folder: Path) -> None:
    with JudgeServer(model_rule) as server:
        critic = endpoint(server.url, price_input=1.0)
        folder = run(raw_recipe(tiny_folder, tmp_path, critic=critic))
        assert all("logprobs" not in body for body in server.asked)
        assert {body["max_tokens"] for body in server.asked} == {6}
    for row in rows(folder):
        (step,) = row["revisions"]["steps"]
        assert step["critique"].endswith("characters")
        assert row["responses"][0]["text"].startswith("Less than")
    took = info(folder)["judges"]["critic"]
    assert took["money"] == pytest.approx(12 * 100 / 1e6)
    assert took["tokens"] == 12 * 101


def test_a_dead_endpoint_stops_the_run_and_the_answers_it_gave_are_kept(
    tmp_path: Path, tiny_folder: Path
) -> None:
    asked = {"count": 0}

    def dying(text: str, body: dict[str, Any]) -> Said:
        asked["count"] += 1
        return model_rule(text, body) if asked["count"] <= 7 else Said(status=500, body="gone")

    raw = raw_recipe(tiny_folder, tmp_path, critic={})
    with JudgeServer(dying) as server:
        raw["stages"][0]["settings"]["critic"] = endpoint(server.url)
        with pytest.raises(RunError, match=r"(?s)the critic failed on .* resume with --resume"):
            run(raw)
        asked["count"] = -1000
        before = len(server.asked)
        folder = run(raw, resume=True)
        assert len(server.asked) - before == 12 - 7
    assert len(rows(folder)) == 6
    assert info(folder)["judges"]["critic"]["tokens"] == 12 * 101


def test_a_critic_that_is_waited_for_is_said_to_be() -> None:
    told: list[str] = []
    down = iter([True, False])

    def back(text: str, body: dict[str, Any]) -> Said:
        return Said(status=500, body="busy") if next(down) else says("Too short.")(text, body)

    prompt = Prompt("p", text="Why?")
    task = Task("critique", prompt, "So.", "x", "Say.", "", Question("", "Why? So. Say.", ()))
    with JudgeServer(back) as server:
        options = {"url": server.url, "retries": 0, "patience_s": 9.0}
        critic = EndpointCritic("m", None, told.append, **options)
        critic.endpoint.sleep = lambda seconds: None
        (written,) = critic.write([task])
    assert written.text
    assert [t.startswith("critic: http") and "asked again in" in t for t in told] == [True]


# -- what fails ------------------------------------------------------------------------------------


def test_nothing_written_is_no_revision(tmp_path: Path, tiny_folder: Path) -> None:
    body = "return ['' if t.prompt.id.endswith('1') else 'No.' for t in tasks]"
    folder = run(raw_recipe(tiny_folder, tmp_path, critic=program(tmp_path, body)))
    assert len(rows(folder)) == 5
    skipped = (folder / "stages/01-revised/skipped.txt").read_text()
    assert "forbidden-train-2-1: round 1, critique by" in skipped
    assert "the critic wrote nothing" in skipped
    assert info(folder)["summary"]["left_out"] == 1.0
    silent = program(tmp_path, "return ['' for t in tasks]")
    raw = raw_recipe(tiny_folder, tmp_path / "other", critic=silent)
    with pytest.raises(RunError, match=r"none of 6 answers could be revised.*wrote nothing"):
        run(raw)


def test_a_revision_with_its_questions_fences_is_left_out(
    tmp_path: Path, tiny_folder: Path
) -> None:
    body = "return [t.question.user if t.prompt.id.endswith('1') else 'No.' for t in tasks]"
    folder = run(raw_recipe(tiny_folder, tmp_path, critic=program(tmp_path, body)))
    assert len(rows(folder)) == 5
    assert "it repeats its question" in (folder / "stages/01-revised/skipped.txt").read_text()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise ValueError('boom')", "boom"),
        ("return ['one']", "it gave 1 texts for 2 tasks|critique by"),
        ("return [None for t in tasks]", "gave a NoneType, not a text"),
    ],
)
def test_a_failing_program_stops_the_run_and_says_where(
    tmp_path: Path, tiny_folder: Path, body: str, expected: str
) -> None:
    if "one" in body and "None" not in body:
        body = "return ['one'] * (2 if len(tasks) == 1 else 1)"
    with pytest.raises(RunError, match="the critic failed on 2 of 2") as caught:
        run(raw_recipe(tiny_folder, tmp_path, critic=program(tmp_path, body)))
    assert any(part in str(caught.value) for part in expected.split("|"))


def test_one_bad_task_does_not_take_the_others_with_it(tmp_path: Path, tiny_folder: Path) -> None:
    body = "return [{}[1] if t.prompt.id.endswith('1') else 'No.' for t in tasks]"
    raw = raw_recipe(tiny_folder, tmp_path, critic=program(tmp_path, body))
    raw["stages"][0]["max_reward_errors"] = 0.5
    folder = run(raw)
    assert len(rows(folder)) == 5
    assert info(folder)["judges"]["critic"]["errors"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"constitution": "gnomn"}}, "did you mean 'gnomon'"),
        ({"settings": {"categories": ["harmles"]}}, "did you mean 'harmlessness'"),
        ({"settings": {"critic": "tunel"}}, "did you mean 'tunnel'"),
        ({"settings": {"critic": {"local": "a", "model": "b"}}}, "exactly one of local, model"),
        ({"settings": {"critic": {"model": "m"}}}, "OPENAI_API_KEY"),
        (
            {"settings": {"critic": {"model": "m", "options": {"urll": "x"}}}},
            "unknown option 'urll'; did you mean 'url'",
        ),
        ({"settings": {"rounds": 0}}, "greater than or equal to 1"),
        ({"reward": "gold"}, "remove reward"),
        ({"train": {"steps": 1}}, "remove train"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    raw = raw_recipe(tiny_folder, tmp_path, **change.pop("settings", {}))
    raw["stages"][0] |= change
    recipe = parse_recipe(raw)
    with pytest.raises(GnomonError, match=words):
        check_recipe(recipe, RunFolder(recipe), tmp_path)


def test_a_dry_run_asks_nobody(tmp_path: Path, tiny_folder: Path) -> None:
    with JudgeServer(says("x")) as server:
        recipe = parse_recipe(raw_recipe(tiny_folder, tmp_path, critic=endpoint(server.url)))
        (plan,) = make_plan(recipe, tmp_path)
        assert server.asked == []
    assert plan.rows == 6


# -- resuming --------------------------------------------------------------------------------------


def test_killed_anywhere_it_ends_with_the_same_rows(tmp_path: Path, tiny_folder: Path) -> None:
    straight = run(raw_recipe(tiny_folder, tmp_path / "a", rounds=2))
    raw = raw_recipe(tiny_folder, tmp_path / "b", rounds=2)
    for number, place in enumerate((2, 4)):
        assert run_and_die(raw, ("revised", "chunk", place), resume=number > 0) == -9
    killed = run(raw, resume=True)
    assert rows(killed) == rows(straight)
    assert (
        info(killed)["judges"]["critic"]["judged"] == info(straight)["judges"]["critic"]["judged"]
    )
    assert info(killed)["compute"] == info(straight)["compute"]


def _die_at(raw: dict[str, Any], count: int, url: str) -> None:
    """Run with the process killed as it is about to ask for the ``count``-th time."""
    from gnomon.judges.endpoint import Endpoint

    real, done = Endpoint._request, [0]

    def request(self: Endpoint, *asked: Any) -> Any:
        done[0] += 1
        if done[0] == count:
            os.kill(os.getpid(), 9)
        return real(self, *asked)

    Endpoint._request = request  # type: ignore[method-assign]
    run(raw)


def test_killed_between_two_answers_of_an_endpoint_none_is_paid_for_twice(
    tmp_path: Path, tiny_folder: Path
) -> None:
    with JudgeServer(model_rule) as server:
        raw = raw_recipe(tiny_folder, tmp_path, critic=endpoint(server.url))
        process = CONTEXT.Process(target=_die_at, args=(raw, 6, server.url))
        process.start()
        process.join(300)
        assert process.exitcode == -9
        folder = run(raw, resume=True)
        assert len(server.asked) == 12
    assert len(rows(folder)) == 6
    assert info(folder)["judges"]["critic"]["tokens"] == 12 * 101


@pytest.mark.parametrize("algorithm", ["revise", "collect"])
def test_a_constitution_that_changed_is_refused_in_words(
    tmp_path: Path, tiny_folder: Path, algorithm: str
) -> None:
    text = Path(read_constitution("tunnel").file).read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text)
    critic = program(tmp_path, CUTS.replace("[", "[{}[1] if t.prompt.id.endswith('5') else "))
    raw = raw_recipe(tiny_folder, tmp_path, constitution="own.yaml", critic=critic)
    stage = raw["stages"][0]
    if algorithm == "collect":
        judge = {"builtin": "principles", "options": {"constitution": "own.yaml"}}
        (tmp_path / "own.py").write_text("def broken(samples):\n    raise ValueError('x')\n")
        stage |= {"algorithm": "collect", "settings": {}, "reward": judge}
        stage["rollout"] = {"samples": 3, "max_new_tokens": 6}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gnomon.stages.collect.Collector.rows", _fails)
            with pytest.raises(RunError, match="not today"):
                run(raw, base=tmp_path)
    else:
        with pytest.raises(RunError, match="the critic failed"):
            run(raw, base=tmp_path)
    changed = yaml.safe_load(text)
    changed["principles"][0]["weight"] = 4
    own.write_text(yaml.safe_dump(changed))
    with pytest.raises(ConfigError, match=r"changed since .* changed: secrets\). Put it back"):
        run(raw, resume=True, base=tmp_path)
    own.write_text("# only a comment is new\n" + text)
    if algorithm == "collect":
        assert run(raw, resume=True, base=tmp_path)
    else:
        with pytest.raises(RunError, match="the critic failed"):
            run(raw, resume=True, base=tmp_path)


def _fails(*_: Any) -> Any:
    raise RunError("not today")


def test_labels_by_principle_reach_the_rows_of_a_collect_stage(
    tmp_path: Path, tiny_folder: Path
) -> None:
    raw = raw_recipe(tiny_folder, tmp_path)
    stage = raw["stages"][0]
    stage |= {"algorithm": "collect", "settings": {}, "reward": "principles"}
    stage["rollout"] = {"samples": 3, "max_new_tokens": 6}
    found = read_constitution("tunnel")
    for row in rows(run(raw)):
        prompt = Prompt(row["id"], (Message("user", ""),))
        assert row["principle"] == str(found.by_prompt()(prompt))
        assert row["reason"]
