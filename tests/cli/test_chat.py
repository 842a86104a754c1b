"""``gnomon chat`` as a user types it, and as a script pipes into it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from command import Run, runs
from gnomon.data.readers import read_groups
from gnomon.stats.intervals import exact_interval
from scripted import save_scripted
from tiny_world import save_tiny, tiny_model

Talk = Callable[..., tuple[int, str]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def gnomon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    save_scripted(tmp_path / "yes", "yes it is")
    save_scripted(tmp_path / "no", "no way")
    capsys.readouterr()  # progress bars
    return runs(tmp_path, monkeypatch, capsys, "chat")


@pytest.fixture
def talk(gnomon: Run, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Runs ``gnomon chat ARGUMENTS`` with lines on standard input."""

    def run(*arguments: str, lines: str, terminal: bool = False) -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", (Terminal if terminal else io.StringIO)(lines))
        return gnomon(*arguments)

    return run


def rows(folder: Path) -> list[dict[str, Any]]:
    files = [f for f in folder.glob("preferences/*.jsonl") if "skipped" not in f.name]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_script_gets_answers_and_nothing_else(talk: Talk) -> None:
    assert talk("yes", lines="is it so?\n\nreally?\n") == (0, "yes it is yes it is")


def test_the_model_sees_the_whole_conversation(talk: Talk, tmp_path: Path) -> None:
    """A model with real attention: the second answer depends on what was said before it."""
    save_tiny(tmp_path / "tiny")
    greedy = ("--temperature", "0", "--max-new-tokens", "6")

    def last(*arguments: str, lines: str) -> str:
        (tmp_path / "log.jsonl").unlink(missing_ok=True)
        assert talk("tiny", *greedy, *arguments, lines=f"{lines}\n/save log.jsonl\n")[0] == 0
        (row,) = map(json.loads, (tmp_path / "log.jsonl").open())
        assert row["messages"][-2] == {"role": "user", "content": "hello"}
        return str(row["messages"][-1]["content"])

    once = last(lines="hello")
    assert last(lines="water\n/reset\nhello") == once
    assert last(lines="water\nhello") != once
    told = last("--system", "water", lines="hello")
    assert told == last(lines="/system water\nhello") != once
    groups = read_groups(tmp_path / "log.jsonl", kind="demonstrations").groups
    assert [m.role for m in groups[0].prompt.messages] == ["system", "user"]


def test_it_answers_as_plain_transformers_would(talk: Talk, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "tiny")
    turns = [{"role": "user", "content": "name a colour"}]
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = tiny_model().generate(**ids, do_sample=False, max_new_tokens=8, pad_token_id=0)
    expected = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    code, said = talk(
        *("tiny", "--temperature", "0", "--max-new-tokens", "8"), lines="name a colour\n"
    )
    assert code == 0
    assert said.startswith(" ".join(expected.split()))
    assert "cut off after 8 tokens" in said


def test_what_a_model_writes_cannot_steer_the_terminal(
    talk: Talk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_scripted(tmp_path / "evil", "\x1b[31m\x9b2J\x07")
    save_scripted(tmp_path / "markup", "[bold]x")
    for arguments in (("evil",), ("evil", "markup")):
        code, said = talk(*arguments, lines="hello\n")
        assert code == 0
        assert "␛[31m" in said
        assert not set("\x1b\x9b\x07") & set(said)
    code, said = talk("markup", "yes", lines="hello\n", terminal=True)
    assert "[bold]x" in said


def test_blind_choices_are_rows_that_a_stage_reads(talk: Talk, tmp_path: Path) -> None:
    n = 12
    lines = "".join(f"question {i}\na\n/reset\n" for i in range(n))
    code, said = talk("yes", "no", "--blind", "--who", "kim", "--seed", "3", lines=lines)
    assert code == 0
    found = rows(tmp_path)
    assert len(found) == n
    own = {"yes": "yes it is", "no": "no way"}
    for i, row in enumerate(found):
        assert row["prompt"] == [{"role": "user", "content": f"question {i}"}]
        for side in "ab":  # the model that is named is the one that said it
            assert row[f"response_{side}"] == own[row[f"model_{side}"].partition("@")[0]]
        assert row["preference"] == "a"
        assert row["labeller"] == "kim"
        assert row["time"].startswith("20")
    first = [row["model_a"].partition("@")[0] for row in found]
    assert set(first) == {"yes", "no"}  # the order is drawn: 1 in 2048 that it never changes
    won = exact_interval(first.count("yes"), n)
    told = re.search(r"yes was preferred to no in ([\d.]+) \[([\d.]+), ([\d.]+)\]", said)
    assert told is not None
    assert [float(x) for x in told.groups()] == pytest.approx(
        [won.value, won.low, won.high], abs=0.01
    )
    assert f"({first.count('yes')} won, {first.count('no')} lost, 0 tied; 0 skipped now)" in said
    (file,) = tmp_path.glob("preferences/*.jsonl")
    groups = read_groups(file, kind="preferences").groups
    assert [g.responses[g.comparisons[0].better].text for g in groups] == [
        row["response_a"] for row in found
    ]


def test_nothing_is_revealed_before_the_end(talk: Talk) -> None:
    lines = "hello\nb\nagain\ntie\nmore\nskip\n"
    code, said = talk("yes", "no", "--blind", lines=lines, terminal=True)
    assert code == 0
    middle = said.split("Ctrl-D ends.")[1].split("was preferred to")[0].rsplit(" ", 2)[0]
    for name in ("yes@", "no@", "─ yes ─", "─ no ─", "[yes]", "[no]"):
        assert name not in middle
    assert "1 tied; 1 skipped now" in said


@pytest.mark.parametrize("terminal", [False, True])
def test_leaving_the_question_takes_the_turn_back(
    talk: Talk, tmp_path: Path, terminal: bool
) -> None:
    code, said = talk("yes", "no", "--blind", lines="one\na\ntwo\n", terminal=terminal)
    assert code == 0
    assert "your last message is taken back" in said
    assert "0 skipped now" in said
    kept = [line for file in tmp_path.glob("preferences/*") for line in file.open()]
    assert not any("two" in line for line in kept)


def test_ctrl_c_at_the_question_goes_on_with_the_next_message(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["one", KeyboardInterrupt, "two", "b"])

    def typed(cue: str) -> str:
        line = next(said, EOFError)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", typed)
    assert talk("yes", "no", "--blind", lines="", terminal=True)[0] == 0
    (row,) = rows(tmp_path)
    assert row["prompt"] == [{"role": "user", "content": "two"}]


def test_the_chosen_answer_continues_both_conversations(talk: Talk, tmp_path: Path) -> None:
    talk("yes", "no", "--blind", lines="one\nb\ntwo\na\n")
    first, second = rows(tmp_path)
    assert second["prompt"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first["response_b"]},
        {"role": "user", "content": "two"},
    ]


def test_models_with_other_tokenizers_and_templates_talk_side_by_side(
    talk: Talk, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "other")
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "other")
    tokenizer.add_tokens(["never seen before"])
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path / "other")
    model = tiny_model()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "other")
    code, said = talk("yes", "other", "--max-new-tokens", "9", lines="hello\nyou?\n")
    assert code == 0
    assert said.count("[yes] yes it is [other]") == 2
    code, said = talk("yes", "other", "--max-new-tokens", "4", lines="hi\n", terminal=True)
    assert "─ yes ─" in said
    assert "─ other ─" in said


def test_the_reward_is_trained_on_what_was_chosen(talk: Talk, tmp_path: Path, gnomon: Run) -> None:
    """The rows go into ``gnomon run`` as they are."""
    from gnomon.recipe.load import parse_recipe
    from gnomon.stages.run import run_recipe

    lines = "".join(f"question {i}\na\n/reset\n" for i in range(4))
    talk("yes", "no", "--blind", lines=lines)
    (file,) = tmp_path.glob("preferences/*.jsonl")
    stage = {"name": "rm", "algorithm": "reward_model", "data": str(file)}
    stage |= {"train": {"steps": 1, "batch_size": 2}}
    raw = {"name": "r", "model": str(tmp_path / "yes"), "max_length": 64, "stages": [stage]}
    run_recipe(parse_recipe({**raw, "output": str(tmp_path / "runs")}, "test"), base=tmp_path)
    assert list(tmp_path.glob("runs/**/01-rm/model/model.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "lines", "message"),
    [
        (("yes", "--blind"), "", "name the other"),
        (("yes", "yes", "--blind"), "", "the same weights"),
        (("nowhere",), "", "no model at 'nowhere'"),
        (("yes", "--temperature", "-1"), "", "temperature is -1.0"),
        (("yes",), "/temprature 1\n", "did you mean '/temperature'?"),
        (("yes",), "/temperature warm\n", "/temperature needs a number"),
        (("yes",), "/save\n", "/save needs a file"),
        (("yes",), "/save x.jsonl\n", "nothing has been said"),
        (("yes",), "hi\n/save ~nobody-at-all/x\n", "give the folder in full"),
        (("yes", "no", "--blind"), "hello\nperhaps\n", "line 2 of the input: 'perhaps' is no"),
        (("yes", "--who", "kim"), "", "go with --blind"),
        (("yes",), "long " * 400, "no room is left for an answer"),
        (("answers.jsonl",), "", "a file of answers"),
        (("bare",), "hello\n", "no chat template"),
        (("reward",), "", "is a reward model"),
    ],
)
def test_what_is_wrong_is_said_with_the_cure(
    talk: Talk, tmp_path: Path, arguments: tuple[str, ...], lines: str, message: str
) -> None:
    (tmp_path / "answers.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    save_tiny(tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    save_tiny(tmp_path / "reward")
    (tmp_path / "reward" / "gnomon.json").write_text('{"kind": "reward_model"}')
    code, said = talk(*arguments, lines=lines)
    assert code == 1
    assert message in said
    assert "Traceback" not in said


def test_a_terminal_survives_a_mistake(talk: Talk) -> None:
    code, said = talk("yes", lines="/frobnicate\nhello\n//slash\n/help\n/quit\n", terminal=True)
    assert code == 0
    assert "unknown command /frobnicate" in said
    assert said.count("yes it is") == 2
    assert "/save FILE" in said
