"""Columns: which one a format is read from, what stands beside it, and what is mapped onto it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from readers_zoo import GOOD_PAIR, A, B, Read, S, U, texts, turns

from gnomon.data.readers import read_groups
from gnomon.errors import DataError
from gnomon.records import Comparison

AGAIN = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye"}]


# --- the field that says what a row is ------------------------------------------------------------


@pytest.mark.parametrize(
    "beside",
    [
        {"prompt": "Hi", "prompt_id": "p0"},
        {"prompt": "Hi", "prompt_id": "p0", "category": "Open QA"},
        {"problem": "Hi", "solution": "It is 2.", "answer": "2"},
        {"question": "Hi", "answer": "Hello"},
        {"instruction": "Hi", "output": "x", "input": "y"},
        {"text": "all of it", "source": "web"},
    ],
    ids=["ultrachat", "no_robots", "openr1-math", "question", "alpaca", "text"],
)
@pytest.mark.parametrize("name", ["messages", "conversations"])
def test_a_conversation_is_read_whatever_stands_beside_it(
    read: Read, beside: dict[str, Any], name: str
) -> None:
    result = read({**beside, name: [S, U, A, *AGAIN]})
    assert result.format == {"messages": "messages", "conversations": "sharegpt"}[name]
    (group,) = result.groups
    assert turns(group) == [("system", "Be kind"), ("user", "Hi")]
    assert [m.content for m in group.responses[0].messages] == ["Hello", "And?", "Bye"]
    kept = {k: v for k, v in beside.items() if k != "category"}
    assert group.prompt.meta == kept
    (prompt,) = read({**beside, name: [S, U, A]}, kind="prompts").groups
    assert turns(prompt) == turns(group)
    assert {k: prompt.prompt.meta.get(k) for k in kept} == kept


def test_the_conversation_with_an_answer_is_the_one(read: Read) -> None:
    (group,) = read({"messages": [], "conversations": [U, A], "prompt": "other"}).groups
    assert (turns(group), texts(group)) == ([("user", "Hi")], ["Hello"])


def test_alpaca_and_questions_are_read_from_their_own_fields(read: Read) -> None:
    alpaca = {"instruction": "Add", "input": "1 2", "output": "3"}
    (group,) = read({**alpaca, "prompt": "Below is ...", "response": "x"}).groups
    assert (turns(group), texts(group)) == ([("user", "Add\n\n1 2")], ["3"])
    (group,) = read({"question": "1+2?", "answer": "3", "solution": "long", "prompt": "x"}).groups
    assert (turns(group), texts(group)) == ([("user", "1+2?")], ["3"])
    assert group.prompt.meta == {"solution": "long", "prompt": "x"}


def test_dollys_context_is_part_of_the_prompt(read: Read) -> None:
    row = {"instruction": "Who?", "context": "Kim did it.", "response": "Kim", "category": "qa"}
    (group,) = read(row, {**row, "context": ""}).groups[:1]
    assert turns(group) == [("user", "Who?\n\nKim did it.")]


def test_the_instances_of_an_instruction_are_demonstrations(read: Read) -> None:
    instances = [{"input": "1 2", "output": "3"}, {"input": "", "output": "none"}]
    row = {"id": "seed", "instruction": "Add", "instances": instances, "system": "Be kind"}
    result = read(row, {**row, "instances": [{"input": "1"}]}, {**row, "instances": ["x"]}, row)
    assert result.format == "self-instruct"
    one, two, *_ = result.groups
    assert turns(one) == [("system", "Be kind"), ("user", "Add\n\n1 2")]
    assert (turns(two)[1], texts(two)) == (("user", "Add"), ["none"])
    ids = [g.prompt.id for g in result.groups]
    assert ids == ["seed/0", "seed/1", "seed/0@4", "seed/1@4"]
    assert [s.reason for s in result.skipped] == [
        "no field 'output'",
        "field 'instances' is not a list of objects",
    ]


def test_a_judged_conversation_beside_a_prompt(read: Read) -> None:
    row = {"prompt": "Hi", "messages": [U, A, *AGAIN], "label": False, "answer": "4"}
    (group,) = read(row).groups
    assert [r for r, _ in turns(group)] == ["user", "assistant", "user"]
    assert texts(group) == ["Bye"]
    (other,) = read({"messages": [S, U], "completion": "x", "label": 1}).groups
    assert (turns(other)[0], texts(other)) == (("system", "Be kind"), ["x"])


def test_an_unanswered_conversation_beside_its_answer(read: Read) -> None:
    (group,) = read({"messages": [S, U], "completion": "Hello"}).groups
    assert (turns(group), texts(group)) == ([("system", "Be kind"), ("user", "Hi")], ["Hello"])


# --- what stands beside ---------------------------------------------------------------------------

TOOLS = [{"name": "roll"}]
BRANCHES: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Hi", "output": "a"},
    "question-answer": {"question": "Hi", "answer": "a"},
    "prompt-completion": {"prompt": "Hi", "completion": "a"},
    "prompt messages": {"prompt": [U], "completion": [A]},
    "messages": {"messages": [U, A]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "a"}]
    },
    "transcript": {"text": "Human: Hi\n\nAssistant: Ho"},
    "transcript prompt": {"prompt": "Human: Hi\n\nAssistant:", "completion": "Ho"},
    "prompts": {"prompt": "Hi"},
    "prompts messages": {"messages": [U]},
    "kto": {"prompt": "Hi", "completion": "a", "label": True},
    "kto messages": {"messages": [U, A], "label": True},
    "pair": {"prompt": "Hi", "chosen": "a", "rejected": "b"},
    "pair of messages": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "pair of conversations": {"chosen": [U, A], "rejected": [U, B]},
    "pair beside messages": {"messages": [U], "chosen": A, "rejected": B},
    "chosen_messages": {"chosen_messages": [U, A], "rejected_messages": [U, B]},
    "hh": {"chosen": "Human: Hi\n\nAssistant: a", "rejected": "Human: Hi\n\nAssistant: b"},
    "many-sided": {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c"]},
    "verdict": {"prompt": "Hi", "response_a": "a", "response_b": "b", "preference": "a"},
    "arena": {"conversation_a": [U, A], "conversation_b": [U, B], "winner": "model_a"},
    "labellers": {"prompt": "Hi", "response1": "a", "response2": "b", "annotator1": 1},
    "ranking": {"prompt": "Hi", "responses": ["a", "b", "c"], "ranking": ["1", "0", "2"]},
    "ranking of messages": {"messages": [U], "responses": ["a", "b"], "scores": [1, 2]},
}
every_branch = pytest.mark.parametrize("row", BRANCHES.values(), ids=BRANCHES.keys())


@every_branch
def test_system_and_tools_reach_every_branch(read: Read, row: dict[str, Any]) -> None:
    for name in ("system", "system_prompt"):
        for tools in (TOOLS, json.dumps(TOOLS)):
            (group,) = read({**row, name: "Be kind", "tools": tools}).groups
            (_, system), *rest = turns(group)
            assert system.startswith("Be kind\n\nYou may call these tools")
            assert '<tools>\n[{"name": "roll"}]\n</tools>' in system
            assert rest == [("user", "Hi")]
            assert group.prompt.meta["tools"] == tools
            assert name not in group.prompt.meta
    assert [turns(g) for g in read({**row, "system": "", "tools": []}, row).groups] == [
        [("user", "Hi")]
    ] * 2


@every_branch
def test_history_reaches_every_branch(read: Read, row: dict[str, Any]) -> None:
    (group,) = read({**row, "history": [["One?", "1"]], "system": "Be kind"}).groups
    before = [("system", "Be kind"), ("user", "One?"), ("assistant", "1")]
    assert turns(group) == [*before, ("user", "Hi")]


@every_branch
def test_side_columns_that_are_wrong_are_refused(read: Read, row: dict[str, Any]) -> None:
    for bad in ({"system": ["x"]}, {"tools": 5}, {"history": "One?"}):
        (skipped,) = read({**row, **bad}, row, row).skipped
        assert next(iter(bad)) in skipped.reason


def test_the_system_turn_stands_once(read: Read) -> None:
    row = {"messages": [S, U, A]}
    (same, plain) = read({**row, "system": " Be kind\n"}, row).groups
    assert turns(same) == turns(plain) == [("system", "Be kind"), ("user", "Hi")]
    (skipped,) = read(row, {**row, "system": "Be rude"}).skipped
    assert "own system turn differ" in skipped.reason


def test_tools_that_the_conversation_lists_are_not_listed_twice(read: Read) -> None:
    listing = json.dumps(TOOLS)
    system = {"role": "system", "content": f"Tools: {listing}"}
    (group,) = read({"messages": [system, U, A], "tools": TOOLS}).groups
    assert turns(group)[0] == ("system", f"Tools: {listing}")


@pytest.mark.parametrize(
    "row",
    [{"text": "Once upon a time"}, {"chosen": "The sky is blue.", "rejected": "The sky is black."}],
)
def test_plain_text_has_no_place_for_a_system_turn(read: Read, row: dict[str, Any]) -> None:
    (skipped,) = read(row, {**row, "system": "Be kind"}).skipped
    assert "cannot be read as plain text" in skipped.reason
    assert "into the text" in skipped.cure


# --- mapped columns -------------------------------------------------------------------------------


def test_a_mapped_instruction_keeps_its_input(read: Read) -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3"}
    expected = [("user", "Add\n\n1 2")]
    assert turns(read(row).groups[0]) == expected
    mapped = read(row, columns={"prompt": "instruction"}).groups[0]
    assert (turns(mapped), texts(mapped)) == (expected, ["3"])
    both = read(row, columns={"prompt": "instruction", "completion": "output"}).groups[0]
    assert (turns(both), texts(both)) == (expected, ["3"])
    named = {"q": "Add", "ctx": "1 2", "a": "3"}
    mapping = {"prompt": "q", "input": "ctx", "completion": "a"}
    assert turns(read(named, columns=mapping).groups[0]) == expected


def test_a_mapped_column_wins_over_its_synonyms(read: Read) -> None:
    row = {"instruction": "Hi", "output": "a", "better": "b", "question": "x", "answer": "c"}
    (group,) = read(row, columns={"completion": "better"}).groups
    assert (turns(group), texts(group)) == ([("user", "Hi")], ["b"])
    assert group.prompt.meta == {"output": "a", "answer": "c", "question": "x"}
    (group,) = read({"messages": [U, A], "q": "Ho", "a": "b"}, columns={"prompt": "q"}).groups
    assert (turns(group), texts(group)) == ([("user", "Ho")], [])
    swapped = read(GOOD_PAIR, columns={"chosen": "rejected", "rejected": "chosen"}).groups[0]
    assert texts(swapped) == ["b", "a"]


def test_a_mapped_column_that_nothing_uses_is_refused(read: Read) -> None:
    row = {"messages": [U, A], "better": "b", "gap": 0.5}
    for columns in ({"completion": "better"}, {"margin": "gap"}):
        with pytest.raises(DataError, match="is mapped, but messages rows have no use for it"):
            read(row, columns=columns)
    (group,) = read(row, kind="prompts", columns={"answer": "better"}).groups
    assert group.prompt.meta["answer"] == "b"


def test_displaced_answers_stay_where_a_reward_finds_them(read: Read) -> None:
    row = {"prompt": "old", "question": "Hi", "answer": "4"}
    (group,) = read(row, kind="prompts", columns={"prompt": "question"}).groups
    assert group.prompt.meta == {"prompt": "old", "answer": "4", "reference": "4"}


def test_errors_name_the_files_own_columns(read: Read) -> None:
    row = {"q": "Hi", "good": "a", "bad": "b"}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    (skipped,) = read(row, row, {**row, "good": [5]}, columns=columns).skipped
    assert "good" in skipped.reason


# --- JSON in text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["messages", "conversations"])
def test_messages_as_a_json_string(read: Read, name: str) -> None:
    result = read({name: json.dumps([S, U, A]), "prompt": "Hi"})
    (group,) = result.groups
    assert turns(group) == [("system", "Be kind"), ("user", "Hi")]
    assert texts(group) == ["Hello"]


def test_pairs_and_prompts_as_json_strings(read: Read) -> None:
    whole = {"chosen": json.dumps([U, A]), "rejected": json.dumps([U, B])}
    parts = {"prompt": json.dumps([U]), "chosen": json.dumps([A]), "rejected": json.dumps([B])}
    for row in (whole, parts):
        (group,) = read(row).groups
        assert (turns(group), texts(group)) == ([("user", "Hi")], ["Hello", "Go away"])


def test_json_strings_that_are_broken_are_bad_rows(read: Read) -> None:
    good = {"messages": json.dumps([U, A])}
    half = json.dumps([U, {**A, "content": "\ud83d"}])
    rows = [{"messages": text} for text in (good["messages"][:-3], half, str([U, A]))]
    result = read(good, *rows, max_skipped=0.9)
    assert len(result.groups) == 1
    broken, surrogate, python = (str(s) for s in result.skipped)
    assert "field 'messages' is text that is not JSON" in broken
    assert "lone surrogate" in surrogate
    assert "Python list written as text" in python
    assert "json.dumps" in python


def test_python_lists_as_text_are_never_trained_on(read: Read) -> None:
    row = {"prompt": str([U]), "completion": "Hello"}
    with pytest.raises(DataError, match="field 'prompt' is a Python list"):
        read(row, row)


# --- verdicts -------------------------------------------------------------------------------------

PANDALM = {
    "idx": 4,
    "cmp_key": "a_b",
    "instruction": "Add",
    "input": "1 2",
    "response1": "three",
    "response2": "four",
}


def votes(*said: int | None) -> dict[str, int | None]:
    return {f"annotator{i}": v for i, v in enumerate(said, start=1)}


def test_several_labellers_are_several_comparisons(read: Read) -> None:
    result = read({**PANDALM, **votes(1, 2, 0)})
    assert (result.format, result.kind) == ("verdict", "preferences")
    (group,) = result.groups
    assert turns(group) == [("user", "Add\n\n1 2")]
    assert texts(group) == ["three", "four"]
    assert group.comparisons == (Comparison(0, 1), Comparison(1, 0), Comparison(0, 1, tie=True))
    assert group.prompt.meta["labellers"] == ("annotator1", "annotator2", "annotator3")
    assert group.prompt.meta["cmp_key"] == "a_b"
    (two,) = read({**PANDALM, **votes(None, 2)}).groups
    assert two.comparisons == (Comparison(1, 0),)
    assert two.prompt.meta["labellers"] == ("annotator2",)


def test_the_majority_of_labellers_decides_other_kinds(read: Read) -> None:
    row = {**PANDALM, **votes(2, 1, 2)}
    (demo,) = read(row, kind="demonstrations").groups
    assert texts(demo) == ["four"]
    good = {texts(g)[0]: g for g in read(row, kind="unpaired").groups}
    assert good["four"].responses[0].meta["label"] is True
    assert good["three"].responses[0].meta["label"] is False
    assert good["four"].weight == pytest.approx(1 / 3)
    (skipped,) = read(row, {**PANDALM, **votes(1, 2)}, kind="unpaired").skipped
    assert skipped.reason == "a tie"


def test_labellers_numbers_are_not_guessed_elsewhere(read: Read) -> None:
    row = {"prompt": "Hi", "response_a": "a", "response_b": "b", "annotator1": 0, "annotator2": 1}
    with pytest.raises(DataError, match="preference 0 is not understood"):
        read(row)
    (group,) = read(row, labels={0: "a", 1: "b"}).groups
    assert group.comparisons == (Comparison(0, 1), Comparison(1, 0))
    words = {**row, "annotator1": "model_a", "annotator2": "tie"}
    assert [c.tie for c in read(words).groups[0].comparisons] == [False, True]


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ({"prompt": "Hi", "response 1": "a", "response 2": "b", "label": 1}, {0: "a", 1: "b"}),
        (
            {"prompt": "Hi", "response_1": "a", "response_2": "b", "label": 1.0},
            {"0": "a", "1": "b"},
        ),
        ({"input": "Hi", "output_1": "a", "output_2": "b", "label": 2}, {1: "a", 2: "b"}),
        ({"input": "Hi", "output_1": "a", "output_2": "b", "label": "2"}, {"1": "a", "2": "b"}),
    ],
    ids=["auto-j", "underscores", "llmbar", "llmbar csv"],
)
def test_a_label_on_two_responses_is_a_verdict(
    read: Read, row: dict[str, Any], labels: dict[Any, Any]
) -> None:
    with pytest.raises(DataError, match=r"is not understood.*labels=.*--labels"):
        read(row)
    result = read(row, labels=labels)
    (group,) = result.groups
    assert result.format == "verdict"
    assert (turns(group), texts(group)) == ([("user", "Hi")], ["b", "a"])


def test_the_labeller_of_a_verdict_is_kept(read: Read) -> None:
    row = {"prompt": "Hi", "completion_a": "a", "completion_b": "b", "preference": "a-is-better"}
    (group,) = read({**row, "evaluator": "yo"}).groups
    assert group.prompt.meta["labellers"] == ("yo",)
    assert group.prompt.meta["evaluator"] == "yo"


def test_a_grade_between_verdicts_says_what_to_do(read: Read) -> None:
    row = {"prompt": "Hi", "output_1": "a", "output_2": "b", "preference": 1.37}
    with pytest.raises(DataError, match=r"a grade between two verdicts.*round it"):
        read(row, labels={1: "a", 2: "b"})


# --- identity -------------------------------------------------------------------------------------


def test_ids_stay_unique_across_shards(tmp_path: Path) -> None:
    for name in ("a-1.jsonl", "a-2.jsonl", "a-3.jsonl"):
        (tmp_path / name).write_text(json.dumps({**GOOD_PAIR, "id": "same"}) + "\n")
    ids = [g.prompt.id for g in read_groups(tmp_path).groups]
    assert ids == ["same", "same@1", "same@1.2"]


REAL = [
    ("pandalm/testset-v1", "verdict", "preferences", 749, 45),
    ("alpaca_seed/seed_tasks", "self-instruct", "demonstrations", 175, 0),
    ("biggen_bench/prompts_rubrics", "prompts", "prompts", 695, 0),
]


@pytest.mark.parametrize(("file", "format", "kind", "groups", "skipped"), REAL)
def test_real_files(
    shared_data: Path, file: str, format: str, kind: str, groups: int, skipped: int
) -> None:
    result = read_groups(shared_data / f"{file}.jsonl.gz")
    assert (result.format, result.kind) == (format, kind)
    assert (len(result.groups), len(result.skipped)) == (groups, skipped)


LABELLED = {
    "autoj_pairwise/testdata_pairwise": ({0: "a", 1: "b", 2: "tie"}, 1118),
    "llmbar/natural": ({1: "a", 2: "b"}, 80),
}


@pytest.mark.parametrize("file", LABELLED)
def test_real_verdicts_with_labels(shared_data: Path, file: str) -> None:
    labels, groups = LABELLED[file]
    result = read_groups(shared_data / f"{file}.jsonl.gz", labels=labels)  # type: ignore[arg-type]
    assert (result.format, len(result.groups)) == ("verdict", groups)
