"""Tasks of inspect_ai on gnomon's engine, offline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from lm_eval_zoo import measured, scripted

import tiny_world
from gnomon.errors import ConfigError, DataError, RunError, RunStopped
from gnomon.evals.subject import Model
from gnomon.evals.table import make_suite
from gnomon.stats.intervals import exact_interval
from gnomon.stats.prompts import over_prompts

TASKS = '''
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Score, accuracy, includes, mean, model_graded_qa, scorer, stderr
from inspect_ai.solver import generate, solver, system_message, use_tools
from inspect_ai.tool import tool


def sums(n):
    return [Sample(input=f"What is {i} + {i}?", target=str(2 * i), id=i) for i in range(n)]


@scorer(metrics=[mean(), stderr()])
def words():
    async def score(state, target):
        if state.input_text.startswith("What is 1 "):
            raise RuntimeError("this one cannot be scored")
        return Score(value=len(state.output.completion.split()), explanation="counted")

    return score


@scorer(metrics=[mean(), stderr()])
def some():
    async def score(state, target):
        return Score(value=float("nan") if state.input_text.startswith("What is 1 ") else 1.0)

    return score


@solver
def are_you_sure():
    async def solve(state, generate):
        state = await generate(state)
        state.messages.append(ChatMessageUser(content="Are you sure?"))
        return await generate(state)

    return solve


@tool
def add():
    async def execute(x: int, y: int):
        """Add two numbers.

        Args:
            x: The first.
            y: The second.
        """
        return x + y

    return execute


@task
def addition(n: int = 4):
    return Task(sums(n), solver=[system_message("Be brief."), generate()], scorer=includes())


@task
def counted():
    return Task(sums(3), solver=generate(), scorer=words())


@task
def unscored():
    return Task(sums(3), solver=generate(), scorer=some())


@task
def asked_again():
    return Task(sums(2), solver=are_you_sure(), scorer=includes())


@task
def with_tools():
    return Task(sums(2), solver=[use_tools(add()), generate()], scorer=includes())


@task
def forced():
    return Task(sums(1), solver=[use_tools(add(), tool_choice="any"), generate()],
                scorer=includes())


@task
def graded():
    grader = model_graded_qa(template="GRADE {answer}", instructions="-")
    return Task(sums(2), solver=generate(), scorer=grader)


@task
def penalised():
    return Task(sums(1), solver=generate(), scorer=includes(),
                config=GenerateConfig(frequency_penalty=0.5))
'''


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def adder(prompt: str, place: int) -> str:
    """The right sum below 3, and 'no' from there on."""
    number = int(prompt.split("What is ")[1].split()[0])
    return f"It is {2 * number}." if number < 3 else "no"


def test_scores_and_rows(base: Path, tiny_folder: Path) -> None:
    model = scripted(tiny_folder, adder)
    result, rows = measured("inspect/tasks.py@addition", {}, base, model)
    assert result.suite == "inspect/tasks-addition"
    assert result.scores == {"includes": exact_interval(3, 4)}
    assert (result.main, result.n, result.errors) == ("includes", 4, 0)
    assert [row["score"] for row in rows] == [1, 1, 1, 0]
    assert rows[2]["answer"] == "It is 4."
    assert set(result.versions) >= {"inspect_ai", "task addition"}
    assert (base / "run/evals/tiny/inspect/tasks-addition.eval").is_file()


def test_the_model_itself_answers_and_arguments_and_limits_hold(
    base: Path, tiny_folder: Path
) -> None:
    model = Model(str(tiny_folder), "tiny")
    options = {"args": {"n": 5}, "limit": 3, "max_new_tokens": 6}
    result, rows = measured("inspect/tasks.py@addition", options, base, model)
    assert result.n == 3
    assert 0 < result.tokens <= 18
    assert all(row["answer"] for row in rows)


def test_repeated_answers_are_clusters_and_drawn_anew(base: Path, tiny_folder: Path) -> None:
    model = Model(str(tiny_folder), "tiny")
    options = {"epochs": 3, "temperature": 1.0, "max_new_tokens": 6, "limit": 2}
    result, rows = measured("inspect/tasks.py@addition", options, base, model)
    assert len({row["answer"] for row in rows}) == 6
    values = [[row["scores"]["includes"] for row in rows if row["id"].startswith(f"{i}/")]
              for i in range(2)]  # fmt: skip
    assert result.scores["includes"] == over_prompts(values)
    # the same seed draws the same
    again, kept = measured("inspect/tasks.py@addition", options, base, model, again=True)
    assert sorted(r["answer"] for r in kept) == sorted(r["answer"] for r in rows)
    assert again.key == result.key


def test_a_sample_that_fails_costs_only_itself(base: Path, tiny_folder: Path) -> None:
    result, rows = measured("inspect/tasks.py@counted", {}, base, scripted(tiny_folder, adder))
    assert (result.n, result.errors) == (2, 1)
    assert result.scores["words"].value == 3.0  # type: ignore[union-attr]
    assert "cannot be scored" in next(row["error"] for row in rows if "error" in row)
    assert any("1 of 3 samples failed" in note for note in result.notes)


def test_a_sample_that_was_not_scored_is_in_no_score(base: Path, tiny_folder: Path) -> None:
    subject = scripted(tiny_folder, lambda prompt, place: "2")
    result, rows = measured("inspect/tasks.py@unscored", {}, base, subject)
    figure = result.scores["some"]
    assert figure is not None
    assert (figure.value, figure.n, result.n, result.errors) == (1.0, 2, 2, 1)
    assert [row["request"] for row in rows] == ["0", "1", "2"]


def test_conversations_are_shown_to_the_model(base: Path, tiny_folder: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str, place: int) -> str:
        asked.append(prompt)
        return "It is 0."

    measured("inspect/tasks.py@asked_again", {}, base, scripted(tiny_folder, answer))
    second = [prompt for prompt in asked if "Are you sure?" in prompt]
    assert len(asked) == 4
    assert len(second) == 2
    assert all("It is 0." in prompt for prompt in second)


def test_a_killed_eval_continues(base: Path, tiny_folder: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str, place: int) -> str:
        asked.append(prompt)
        return adder(prompt, place)

    def stop(done: int, total: int) -> None:
        raise RunStopped("stopped", 15)

    model = scripted(tiny_folder, answer)
    with pytest.raises(RunStopped):
        measured("inspect/tasks.py@addition", {}, base, model, watch=stop)
    said: list[str] = []
    before = len(asked)
    assert before > 0
    result, _ = measured("inspect/tasks.py@addition", {}, base, model, tell=said.append)
    assert len(asked) == len(set(asked)) == 4
    assert any(f"{before} requests are answered already" in line for line in said)
    assert result.scores["includes"] == exact_interval(3, 4)


def test_a_model_that_grades_itself_is_said(base: Path, tiny_folder: Path) -> None:
    def answer(prompt: str, place: int) -> str:
        return "GRADE: C" if "GRADE" in prompt else "It is 2."

    model = scripted(tiny_folder, answer)
    result, _ = measured("inspect/tasks.py@graded", {"max_new_tokens": 8}, base, model)
    assert result.scores["model_graded_qa"].value == 1.0  # type: ignore[union-attr]
    assert any("the model graded itself" in note for note in result.notes)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("forced", r"forces the model to call a tool \(tool_choice\)"),
        ("penalised", "gnomon's engine has no frequency_penalty"),
    ],
)
def test_what_the_engine_cannot_do(base: Path, tiny_folder: Path, task: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(f"inspect/tasks.py@{task}", {}, base, scripted(tiny_folder, adder))


def caller(prompt: str, place: int) -> str:
    """Calls add, wrongly first, then rightly, and says what it was told."""
    after = prompt.split("What is ")[1]
    if "<tool_call>" not in after:
        return 'Let me see. <tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call>'
    if "Again." not in after:
        number = int(after.split()[0])
        call = {"name": "add", "arguments": {"x": number, "y": number}}
        return f"Again. <tool_call>\n{json.dumps(call)}\n</tool_call>"
    return f"It is {after.rpartition('</tool_call>')[2]}."


def roomy(folder: Path) -> Path:
    """The tiny model with a window of 2048 tokens."""
    tiny_world.save_tiny(folder)
    config = folder / "config.json"
    settings = {**json.loads(config.read_text()), "max_position_embeddings": 2048}
    config.write_text(json.dumps(settings))
    return folder


def test_tools_are_shown_called_and_answered(base: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str, place: int) -> str:
        asked.append(prompt)
        return caller(prompt, place)

    model = scripted(roomy(base / "tiny"), answer)
    result, rows = measured("inspect/tasks.py@with_tools", {}, base, model)
    assert result.scores["includes"] == exact_interval(2, 2), rows
    last = max(asked, key=len)
    assert '<tools>\n[{"type": "function", "function": {"name": "add"' in last
    assert "Let me see. <tool_call>" in last  # as the model wrote it
    told = last.partition("</tool_call>")[2].partition("Again.")[0]
    assert "'y' is a required property" in told
    assert len(asked) == 6


def test_a_template_that_knows_no_tools(base: Path) -> None:
    """It is refused, or tools answer as the user does where ``calls`` says how they are called."""
    folder = roomy(base / "tiny")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace(", 'tool'", ""))
    with pytest.raises(ConfigError, match=r"of tiny knows none.*by calls: hermes, llama or python"):
        measured("inspect/tasks.py@with_tools", {}, base, scripted(folder, caller))
    result, _ = measured(
        "inspect/tasks.py@with_tools", {"calls": "hermes"}, base, scripted(folder, caller)
    )
    assert result.scores["includes"] == exact_interval(2, 2)


def test_prompts_that_do_not_fit(base: Path, tiny_folder: Path) -> None:
    model = scripted(tiny_folder, adder)
    with pytest.raises(RunError, match=r"all 4 samples failed.*lower max_new_tokens"):
        measured("inspect/tasks.py@addition", {"max_new_tokens": 250}, base, model)


def test_a_model_without_a_chat_template(base: Path) -> None:
    plain = tiny_world.save_tiny(base / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="plain has no chat template"):
        measured("inspect/tasks.py@addition", {}, base, Model(str(plain), "plain"))


def test_tasks_that_are_not_there(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"nowhere\.py: no such file"):
        make_suite("inspect/nowhere.py@addition", {}, base)
    with pytest.raises(ConfigError, match="inspect has no task 'adition'"):
        make_suite("inspect/adition", {}, base)
    with pytest.raises(ConfigError, match="inspect_evals cannot be imported"):
        make_suite("inspect/inspect_evals/gsm8k", {}, base)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(ConfigError, match=r"pip install 'gnomon-rlhf\[eval\]'"):
        make_suite("inspect/tasks.py@addition", {}, base)
