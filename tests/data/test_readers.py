"""Readers: every format people have, and every way a row can be wrong."""

from __future__ import annotations

import gzip
import json

import pytest
from readers_zoo import GOOD_PAIR, A, B, S, U, texts, turns

from gnomon.data.readers import read_groups
from gnomon.data.values import Skipped, summarise_skipped
from gnomon.errors import DataError
from gnomon.records import Comparison, Message, Source

PAIRS = {
    "trl explicit strings": {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
    "trl explicit messages": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "trl implicit messages": {"chosen": [U, A], "rejected": [U, B]},
    "ultrafeedback binarized": {"prompt": "Hi", "chosen": [U, A], "rejected": [U, B]},
    "llama-factory sharegpt": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello"},
        "rejected": {"from": "gpt", "value": "Go away"},
    },
    "llama-factory alpaca": {
        "instruction": "Hi",
        "input": "",
        "chosen": "Hello",
        "rejected": "Go away",
    },
    "llama-factory v1": {
        "chosen_messages": [
            {"role": "user", "content": [{"type": "text", "value": "Hi"}], "loss_weight": 0.0},
            {"role": "assistant", "content": [{"type": "text", "value": "Hello"}]},
        ],
        "rejected_messages": [U, B],
    },
    "axolotl chat_template": {"messages": [U], "chosen": A, "rejected": B},
    "axolotl intel": {"question": "Hi", "chosen": "Hello", "rejected": "Go away"},
    "axolotl argilla": {
        "instruction": "Hi",
        "chosen_response": "Hello",
        "rejected_response": "Go away",
    },
    "hh-rlhf": {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Go away",
    },
    "transcript prompt": {
        "prompt": "\n\nHuman: Hi\n\nAssistant:",
        "chosen": "Hello",
        "rejected": "Go away",
    },
    "corrects": {"prompt": "Hi", "corrects": ["Hello"], "incorrects": ["Go away"]},
    "verdict": {"prompt": "Hi", "output_1": "Go away", "output_2": "Hello", "preference": "b"},
    "arena": {"conversation_a": [U, A], "conversation_b": [U, B], "winner": "model_a"},
    "gnomon ranks": {
        "prompt": "Hi",
        "responses": [{"text": "Hello", "rank": 1}, {"text": "Go away", "rank": 2}],
    },
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS.keys())
def test_every_pair_format_gives_the_same_pair(read, row) -> None:
    result = read(row, kind="preferences")
    (group,) = result.groups
    assert turns(group) == [("user", "Hi")]
    (c,) = group.comparisons
    assert texts(group)[c.better] == "Hello"
    assert texts(group)[c.worse] == "Go away"
    assert (c.weight, c.margin, c.tie) == (1.0, 0.0, False)
    assert result.skipped == []
    assert group.prompt.source is not None
    assert group.prompt.source.row == 1
    assert group.prompt.id == "rows-1"


def test_system_column_joins_the_prompt(read) -> None:
    (group,) = read({"system": "Be kind", "question": "Hi", "chosen": "a", "rejected": "b"}).groups
    assert turns(group) == [("system", "Be kind"), ("user", "Hi")]


DEMOS = {
    "messages": {"messages": [S, U, A]},
    "sharegpt": {
        "conversations": [
            {"from": "system", "value": "Be kind"},
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
        ]
    },
    "alpaca": {"system": "Be kind", "instruction": "Hi", "input": "", "output": "Hello"},
    "prompt-completion": {"prompt": [S, U], "completion": [A]},
    "question-answer": {"system": "Be kind", "question": "Hi", "answer": "Hello"},
    "gnomon": {"messages": [S, U], "responses": ["Hello"]},
}


@pytest.mark.parametrize("name", DEMOS)
def test_every_demonstration_format(read, name) -> None:
    result = read(DEMOS[name])
    (group,) = result.groups
    assert (result.kind, result.format) == ("demonstrations", name)
    assert turns(group) == [("system", "Be kind"), ("user", "Hi")]
    assert texts(group) == ["Hello"]
    assert group.comparisons == ()


def test_alpaca_input_and_history(read) -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]]}
    (group,) = read(row).groups
    assert turns(group) == [("user", "Hi"), ("assistant", "Hello"), ("user", "Add\n\n1 2")]


def test_multi_turn_demonstration_keeps_later_turns_in_the_response(read) -> None:
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye"}, U]
    (group,) = read({"messages": [U, A, *more]}).groups
    assert turns(group) == [("user", "Hi")]
    assert [m.role for m in group.responses[0].messages] == ["assistant", "user", "assistant"]


def test_turns_switched_off_are_marked(read) -> None:
    off = {**A, "weight": 0}
    (group,) = read({"messages": [U, off, U, B]}).groups
    assert group.responses[0].meta["train"] == (False, True, True)


def test_tool_calls_and_reasoning_become_text(read) -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}],
    }
    row = {
        "messages": [U, call, {"role": "tool", "content": "2"}, A],
        "tools": [{"name": "add"}],
    }
    (group,) = read(row).groups
    assert '[{"name": "add"}]' in group.prompt.messages[0].content
    assert group.prompt.messages[0].role == "system"
    body = group.responses[0].messages[0].content
    assert body == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    shared = {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "Hello"},
        ]
    }
    (other,) = read(shared).groups
    assert other.responses[0].messages == group.responses[0].messages
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "Hello"}]
    (third,) = read({"messages": [U, {"role": "assistant", "content": parts}]}).groups
    assert third.responses[0].text == "<think>\nhm\n</think>\n\nHello"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "completion": "Hello", "label": True},
        {"instruction": "Hi", "input": "", "output": "Hello", "kto_tag": True},
        {"messages": [U, A], "label": True},
        {
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
            "kto_tag": "true",
        },
        {"prompt": [U], "completion": [A], "label": "True"},
        {"prompt": "Hi", "responses": [{"text": "Hello", "label": True}]},
    ],
)
def test_kto_rows(read, row) -> None:
    result = read(row)
    assert result.kind == "unpaired"
    (group,) = result.groups
    assert turns(group) == [("user", "Hi")]
    assert texts(group) == ["Hello"]
    assert group.responses[0].meta["label"] is True


def test_a_class_label_is_not_a_judgement(read) -> None:
    assert read({"prompt": "Hi", "completion": "Hello", "label": "greeting"}).kind == (
        "demonstrations"
    )


RATED = {
    "instruction": "Hi",
    "completions": [
        {"response": "so-so", "overall_score": 5.0},
        {"response": "best", "overall_score": 9},
        {"response": "bad", "overall_score": "1"},
        {"response": "also so-so", "overall_score": 5},
    ],
}


def test_ratings_become_ranks(read) -> None:
    result = read(RATED)
    assert result.kind == "rankings"
    assert [r.rank for r in result.groups[0].responses] == [2, 1, 3, 2]
    flat = {"prompt": "Hi", "responses": ["x", "y"], "scores": [1, 2]}
    assert [r.rank for r in read(flat).groups[0].responses] == [2, 1]


def test_ratings_read_as_other_kinds(read) -> None:
    (pair,) = read(RATED, kind="preferences").groups
    assert texts(pair) == ["best", "bad"]
    assert pair.comparisons == (Comparison(0, 1),)
    (demo,) = read(RATED, kind="demonstrations").groups
    assert texts(demo) == ["best"]
    unpaired = read(RATED, kind="unpaired", good_from=5).groups
    assert [(texts(g)[0], g.responses[0].meta["label"]) for g in unpaired] == [
        ("so-so", True),
        ("best", True),
        ("bad", False),
        ("also so-so", True),
    ]
    assert len({g.prompt.id for g in unpaired}) == 4
    (prompt,) = read(RATED, kind="prompts").groups
    assert prompt.responses == ()
    assert prompt.prompt.meta["reference"] == "best"


def test_native_comparisons_by_id(read) -> None:
    row = {
        "id": "q7",
        "prompt": "Hi",
        "category": "greeting",
        "responses": [{"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"id": "c", "text": "3"}],
        "comparisons": [
            {"better": "b", "worse": "a", "weight": 2, "confidence": 0.5, "labeller": "kim"},
            {"better": "a", "worse": "c", "margin": 0.7},
            {"better": "b", "worse": "c", "tie": True},
        ],
        "difficulty": 3,
    }
    (group,) = read(row).groups
    assert group.comparisons == (
        Comparison(1, 0, weight=1.0),
        Comparison(0, 2, margin=0.7),
        Comparison(1, 2, tie=True),
    )
    assert group.prompt.id == "q7"
    assert group.prompt.category == "greeting"
    assert group.prompt.meta == {"difficulty": 3, "labellers": ("kim", None, None)}


def test_native_ranking_list_with_ties(read) -> None:
    row = {
        "prompt": "Hi",
        "responses": [{"id": i, "text": i} for i in "abc"],
        "ranking": ["b", ["a", "c"]],
    }
    assert [r.rank for r in read(row).groups[0].responses] == [2, 1, 2]


def test_text_and_prompts(read) -> None:
    (doc,) = read({"text": "Once upon a time"}).groups
    assert doc.prompt.text == ""
    assert texts(doc) == ["Once upon a time"]
    result = read({"prompt": "Hi", "answer_key": 4}, {"prompt": "Ho"})
    assert (result.kind, result.format) == ("prompts", "prompts")
    assert result.groups[0].prompt.meta == {"answer_key": 4}


def test_prompts_of_demonstrations_keep_the_answer(read) -> None:
    (group,) = read({"question": "1+1?", "answer": "It is 2\n#### 2"}, kind="prompts").groups
    assert group.responses == ()
    assert group.prompt.meta["answer"] == "It is 2\n#### 2"


def test_as_text_makes_plain_prompts(read) -> None:
    (group,) = read({"prompt": "2+2=", "completion": " 4"}, as_text=True).groups
    assert group.prompt.text == "2+2="
    assert group.prompt.messages == ()
    assert texts(group) == [" 4"]


def test_implicit_prompt_in_strings_is_cut_at_a_word(read) -> None:
    (group,) = read({"chosen": "The sky is blue.", "rejected": "The sky is black."}).groups
    assert group.prompt.text == "The sky is"
    assert texts(group) == [" blue.", " black."]


# --- hh-rlhf ------------------------------------------------------------------------------------


def hh(*parts: str) -> str:
    names = ("Human", "Assistant")
    return "".join(f"\n\n{names[i % 2]}: {part}" for i, part in enumerate(parts))


def test_hh_multi_turn(read) -> None:
    row = {"chosen": hh("a", "b", "c", "good"), "rejected": hh("a", "b", "c", "bad")}
    result = read(row)
    (group,) = result.groups
    assert result.format == "hh-rlhf"
    assert turns(group) == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert texts(group) == ["good", "bad"]


def test_hh_label_inside_a_sentence_is_text(read) -> None:
    row = {"chosen": hh("a", "Human: b? Assistant: c"), "rejected": hh("a", "no")}
    assert texts(read(row).groups[0])[0] == "Human: b? Assistant: c"


def test_hh_two_turns_of_one_speaker_are_one(read) -> None:
    row = {"chosen": hh("a", "one") + "\n\nAssistant: two", "rejected": hh("a", "no")}
    assert texts(read(row).groups[0]) == ["one\n\ntwo", "no"]


def test_hh_conversations_that_part_early_keep_the_common_opening(read) -> None:
    row = {"chosen": hh("a", "b", "c", "good"), "rejected": hh("a", "x", "y", "bad")}
    (group,) = read(row).groups
    assert turns(group) == [("user", "a")]
    assert [m.content for m in group.responses[0].messages] == ["b", "c", "good"]
    assert [m.content for m in group.responses[1].messages] == ["x", "y", "bad"]


BAD = {
    "empty response": {"prompt": "Hi", "chosen": " ", "rejected": "b"},
    "chosen and rejected are the same": {"prompt": "Hi", "chosen": "a", "rejected": "a "},
    "no field 'rejected'": {"prompt": "Hi", "chosen": "a", "rejectd": "b"},
    "field 'chosen' is null": {"prompt": "Hi", "chosen": None, "rejected": "b"},
    "empty prompt": {"prompt": "  ", "chosen": "a", "rejected": "b"},
    "not text": {"prompt": "Hi", "chosen": True, "rejected": "b"},
    "unknown role": {"prompt": [{"role": "usr", "content": "Hi"}], "chosen": "a", "rejected": "b"},
    "do not share a prompt": {
        "chosen": [U, A],
        "rejected": [{"role": "user", "content": "Other"}, B],
    },
    "not a number": {**GOOD_PAIR, "margin": "much"},
    "a list, not an object": [1, 2],
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_rows_are_skipped_and_named(read, reason) -> None:
    result = read(GOOD_PAIR, BAD[reason], GOOD_PAIR, GOOD_PAIR)
    assert len(result.groups) == 3
    (skipped,) = result.skipped
    assert reason in skipped.reason
    assert skipped.cure
    assert skipped.source is not None
    assert skipped.source.row == 2


def test_misspelt_field_gets_a_suggestion(read) -> None:
    bad = {"prompt": "Hi", "chosen": "a", "rejectd": "b"}
    (skipped,) = read(GOOD_PAIR, bad, GOOD_PAIR).skipped
    assert "did you mean 'rejected' where the row has 'rejectd'" in skipped.cure


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ranking": ["a", "z"]}, "unknown response 'z'"),
        ({"ranking": ["a"]}, "leaves out 'b'"),
        ({"comparisons": [{"better": "a", "worse": "z"}]}, "unknown response 'z'"),
        ({"comparisons": [{"better": "a", "worse": "a"}]}, "with itself"),
        ({"comparisons": [{"beter": "a", "worse": "b"}]}, "no 'better'"),
        ({"comparisons": [{"better": "a", "worse": "b", "confidence": 2}]}, "confidence"),
        ({}, "nothing says which"),
        ({"scores": [1]}, "does not match"),
    ],
)
def test_bad_rankings_are_named(read, change, reason) -> None:
    base = {"prompt": "Hi", "responses": [{"id": "a", "text": "1"}, {"id": "b", "text": "2"}]}
    fine = {**base, "ranking": ["a", "b"]}
    (skipped,) = read(fine, {**base, **change}, fine).skipped
    assert reason in skipped.reason


def test_invalid_json_line_is_named_by_row(tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(GOOD_PAIR)}\n\n{{broken\n{json.dumps(GOOD_PAIR)}\n")
    result = read_groups(path)
    assert len(result.groups) == 2
    assert result.skipped[0].source == Source(str(path), 3)
    assert "invalid JSON" in result.skipped[0].reason
    assert result.groups[1].prompt.id == "x-4"


def test_too_many_bad_rows_refuse_the_file(read) -> None:
    bad = {"prompt": "Hi", "chosen": "a", "rejected": "a"}
    with pytest.raises(DataError, match=r"rows\.jsonl.*2 of 3 rows.*row 2.*the same") as caught:
        read(GOOD_PAIR, bad, bad)
    assert "two different answers" in str(caught.value)
    assert len(read(GOOD_PAIR, bad, bad, max_skipped=0.7).groups) == 1
    with pytest.raises(DataError, match="1 of 1"):
        read(bad, max_skipped=1.0)


def test_unknown_fields_name_the_likely_ones(read) -> None:
    with pytest.raises(DataError, match=r"row 1: no known format.*did you mean 'chosen'"):
        read({"choosen": "a", "foo": "b"})


def test_kinds_are_not_invented(read) -> None:
    with pytest.raises(DataError, match=r"holds demonstrations.*cannot be read as preferences"):
        read({"question": "Hi", "answer": "Ho"}, kind="preferences")


def test_pairs_read_as_unpaired_and_demonstrations(read) -> None:
    good, bad = read(GOOD_PAIR, kind="unpaired").groups
    assert (texts(good), good.responses[0].meta["label"]) == (["a"], True)
    assert (texts(bad), bad.responses[0].meta["label"]) == (["b"], False)
    (demo,) = read(GOOD_PAIR, kind="demonstrations").groups
    assert texts(demo) == ["a"]


def test_a_ranking_read_as_unpaired_labels_its_ends(read) -> None:
    ranked = {
        "prompt": "Hi",
        "responses": [
            {"text": "middle", "rank": 2},
            {"text": "worst", "rank": 3},
            {"text": "best", "rank": 1},
        ],
    }
    groups = read(ranked, kind="unpaired").groups
    assert [(texts(g)[0], g.responses[0].meta["label"]) for g in groups] == [
        ("best", True),
        ("worst", False),
    ]
    level = {**ranked, "responses": [{**r, "rank": 1} for r in ranked["responses"]]}
    result = read(ranked, level, kind="unpaired")
    assert len(result.groups) == 2
    assert "rated alike" in str(result.skipped[0])


def test_columns_and_labels(read) -> None:
    row = {"q": "Hi", "response 1": "one", "response 2": "two", "label": 1, "scenario": "x"}
    columns = {
        "prompt": "q",
        "response_a": "response 1",
        "response_b": "response 2",
        "preference": "label",
        "category": "scenario",
    }
    labels = {0: "a", 1: "b", 2: "tie"}
    rows = [row, {**row, "label": 2}, {**row, "label": 0}]
    b, tie, a = read(*rows, columns=columns, labels=labels).groups
    assert texts(b) == ["two", "one"]
    assert b.prompt.category == "x"
    assert tie.comparisons[0].tie
    assert texts(a) == ["one", "two"]
    with pytest.raises(DataError, match=r"preference 1 is not understood.*labels="):
        read(row, columns=columns)
    with pytest.raises(DataError, match="did you mean 'response 1'"):
        read(row, columns={**columns, "response_a": "respons 1"}, labels=labels)
    with pytest.raises(DataError, match="did you mean 'category'"):
        read(row, columns={"catgory": "scenario"}, labels=labels)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a-is-better", "a"),
        ("b-is-slightly-better", "b"),
        ("tie", "tie"),
        ("tie (bothbad)", "tie"),
        ("model_b", "b"),
        ("A", "a"),
    ],
)
def test_verdict_words(read, word, expected) -> None:
    row = {"prompt": "Hi", "response_a": "one", "response_b": "two", "preference": word}
    (group,) = read(row).groups
    c = group.comparisons[0]
    assert ("tie" if c.tie else group.responses[c.better].id) == expected
    ranks = {r.id: r.rank for r in group.responses}
    assert (ranks["a"] < ranks["b"], ranks["b"] < ranks["a"]) == (expected == "a", expected == "b")


# --- choices ---------------------------------------------------------------------------------


def test_limit_and_sample(read) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(50)]
    assert [g.prompt.id for g in read(*rows, limit=2).groups] == ["rows-1", "rows-2"]
    first = [g.prompt.id for g in read(*rows, limit=5, sample_seed=1).groups]
    assert first == [g.prompt.id for g in read(*rows, limit=5, sample_seed=1).groups]
    assert first != [g.prompt.id for g in read(*rows, limit=5, sample_seed=2).groups]
    assert len(set(first)) == 5


def test_own_ids_are_made_unique(read) -> None:
    rows = [{**GOOD_PAIR, "id": "same"}, {**GOOD_PAIR, "id": "same"}]
    assert [g.prompt.id for g in read(*rows).groups] == ["same", "same@2"]


def test_summary_counts_by_reason() -> None:
    skipped = [Skipped(Source("f", i), "empty prompt", "fill it") for i in (2, 5, 9, 11)]
    skipped.append(Skipped(Source("f", 3), "no field 'x'", "add it"))
    assert summarise_skipped(skipped).splitlines() == [
        "5 skipped",
        "  4 x empty prompt (row 2, 5, 9, ...): fill it",
        "  1 x no field 'x' (row 3): add it",
    ]
    assert summarise_skipped([]) == "no rows skipped"


# --- real data ----------------------------------------------------------------------------------

REAL = [
    ("hh-rlhf/harmless-test", "hh-rlhf", "preferences", 1847, 3),
    ("gsm8k/train", "question-answer", "demonstrations", 7473, 0),
    ("llamafactory_demos/alpaca_zh_demo", "alpaca", "demonstrations", 1000, 0),
    ("llamafactory_demos/dpo_en_demo", "chosen-rejected", "preferences", 300, 0),
    ("llamafactory_demos/glaive_toolcall_en_demo", "sharegpt", "demonstrations", 300, 0),
    ("llamafactory_demos/kto_en_demo", "kto", "unpaired", 300, 0),
    ("llamafactory_demos/reason_tool_use_demo_50", "messages", "demonstrations", 50, 0),
    ("llamafactory_demos/v1_dpo_demo", "chosen-rejected", "preferences", 10, 0),
    ("llamafactory_demos/v1_sft_demo", "messages", "demonstrations", 500, 0),
    ("gpteacher/toolformer-similarity-0.6", "alpaca", "demonstrations", 2396, 0),
    ("constitutional/438HHHEvaluations", "chosen-rejected", "preferences", 351, 0),
    ("alpaca_farm/multisamples_sft", "alpaca", "demonstrations", 32, 0),
    ("tulu_human_eval/eval_annotations_tulu_1", "verdict", "preferences", 927, 1),
]


@pytest.mark.parametrize(("file", "format", "kind", "groups", "skipped"), REAL)
def test_real_files(shared_data, file, format, kind, groups, skipped) -> None:
    result = read_groups(shared_data / f"{file}.jsonl.gz")
    assert (result.format, result.kind) == (format, kind)
    assert (len(result.groups), len(result.skipped)) == (groups, skipped)
    assert len({g.prompt.id for g in result.groups}) == groups


def test_real_hh_rows_give_back_their_transcripts(shared_data) -> None:
    """Every well-formed row, put together again, is the file's own text."""
    path = shared_data / "hh-rlhf" / "harmless-test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    names = {"user": "Human", "assistant": "Assistant"}
    squeeze = lambda text: "".join(text.replace("Assistant:", "").split())  # noqa: E731
    for group in read_groups(path).groups:
        assert group.prompt.source is not None
        row = rows[group.prompt.source.row - 1]
        for side, response in zip(("chosen", "rejected"), group.responses, strict=True):
            messages: tuple[Message, ...] = (*group.prompt.messages, *response.messages)
            again = "".join(f"\n\n{names[m.role]}: {m.content}" for m in messages)
            assert squeeze(again) == squeeze(row[side])
        assert group.prompt.messages[-1].role == "user"
