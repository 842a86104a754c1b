"""Single values: what is missing, what is text, what counts for how much."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers_zoo import GOOD_PAIR, A, B, Read, U, texts, turns

from gnomon.data.encode import Encoder
from gnomon.data.readers import read_groups
from gnomon.errors import DataError
from gnomon.tasks.tunnel.tokenizer import build_tokenizer

NAN = math.nan


# --- missing ------------------------------------------------------------------------------------


def test_nan_is_missing_and_never_a_word(read: Read) -> None:
    row = {"instruction": "Name a colour", "input": NAN, "output": "Blue", "system": NAN}
    result = read(row, {**row, "output": NAN}, row, {**row, "history": NAN, "tools": NAN})
    assert [turns(g) for g in result.groups] == [[("user", "Name a colour")]] * 3
    assert [texts(g) for g in result.groups] == [["Blue"]] * 3
    assert [(s.source and s.source.row, s.reason) for s in result.skipped] == [
        (2, "field 'output' is null")
    ]
    pair = read(GOOD_PAIR, {**GOOD_PAIR, "rejected": NAN}, GOOD_PAIR)
    assert [s.reason for s in pair.skipped] == ["field 'rejected' is null"]


def test_a_column_that_no_row_fills_is_named(read: Read) -> None:
    row = {"prompt": "Hi", "chosen": "a", "rejected": NAN}
    assert read(row, row).empty == ("rejected",)
    with pytest.raises(DataError, match=r"Preferences come from: .*No row fills rejected"):
        read(row, row, kind="preferences")


def test_nan_inside_lists_and_numbers_is_missing(read: Read) -> None:
    message = {"role": "assistant", "content": "Hello", "weight": NAN, "tool_calls": NAN}
    (group,) = read({"messages": [U, message], "weight": NAN}).groups
    assert (texts(group), group.weight, group.responses[0].meta) == (["Hello"], 1.0, {})
    rated = {"prompt": "Hi", "responses": ["a", "b"], "scores": [1, 2]}
    (skipped,) = read(rated, {**rated, "scores": [1, NAN]}).skipped
    assert skipped.reason == "field 'scores[1]' is None, not a number"


def test_nan_of_parquet_is_missing(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["Hi", "Ho"], "completion": ["a", "b"], "input": [NAN, NAN]})
    pq.write_table(table, tmp_path / "a.parquet")
    groups = read_groups(tmp_path / "a.parquet").groups
    assert [turns(g) for g in groups] == [[("user", "Hi")], [("user", "Ho")]]
    assert [g.prompt.meta for g in groups] == [{}, {}]


def call(name: str, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}


def test_arrows_padding_of_tool_calls_is_not_trained(tmp_path: Path) -> None:
    """Arrow gives each struct of a column all fields of the others, as nulls."""
    rows = [
        {
            "messages": [U, call("add", {"a": 1, "b": 2})],
            "tools": [{"name": "add", "of": {"a": 1}}],
        },
        {"messages": [U, call("roll", {"n": 6})], "tools": [{"name": "roll", "of": {"n": 1}}]},
    ]
    table = pa.Table.from_pylist(rows)
    padded = table.to_pylist()[1]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert padded == {"a": None, "b": None, "n": 6}
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.parquet", "b.arrow", "saved"):
        first, second = read_groups(tmp_path / name).groups
        assert texts(first) == [
            '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
        ]
        assert texts(second) == [
            '<tool_call>\n{"name": "roll", "arguments": {"n": 6}}\n</tool_call>'
        ]
        assert '[{"name": "roll", "of": {"n": 1}}]' in second.prompt.messages[0].content


def test_a_null_that_json_has_was_written(read: Read) -> None:
    (group,) = read({"messages": [U, call("roll", {"n": None})]}).groups
    assert '"arguments": {"n": null}' in texts(group)[0]


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, ["a", 1], {"a": 1}, math.inf])
def test_what_is_no_text_is_not_written_out(read: Read, value: Any) -> None:
    (skipped,) = read(GOOD_PAIR, {**GOOD_PAIR, "chosen": value}, GOOD_PAIR).skipped
    assert "chosen" in skipped.reason


def test_empty_assistant_turns_are_not_trained_on(read: Read) -> None:
    empty = {"role": "assistant", "content": " "}
    rows = [
        {"messages": [U, A, U, empty]},
        {"messages": [U, empty, U, A]},
        {"messages": [U, {"role": "assistant", "content": None}, U, A]},
    ]
    result = read({"messages": [U, A]}, *rows, max_skipped=0.9)
    assert [s.source and s.source.row for s in result.skipped] == [2, 3, 4]
    assert all("say nothing" in s.reason and "weight: 0" in s.cure for s in result.skipped)
    (switched_off,) = read({"messages": [U, {**empty, "weight": 0}, U, A]}).groups
    assert switched_off.responses[0].meta["train"] == (False, True, True)
    pair = {"chosen": [U, A, U, empty], "rejected": [U, B]}
    (skipped,) = read(GOOD_PAIR, pair, GOOD_PAIR).skipped
    assert "say nothing" in skipped.reason


@pytest.mark.parametrize("calls", [5, {"function": {"name": "f"}}, [{"function": {}}], ["f"]])
def test_tool_calls_that_call_nothing_are_refused(read: Read, calls: Any) -> None:
    row = {"messages": [U, {"role": "assistant", "content": "", "tool_calls": calls}]}
    (skipped,) = read({"messages": [U, A]}, row).skipped
    assert "messages[1].tool_calls" in skipped.reason


# --- weights and flags ----------------------------------------------------------------------------

ROWS: dict[str, dict[str, Any]] = {
    "prompt-completion": {"prompt": "Hi", "completion": "a"},
    "completions": {"prompt": "Hi", "completion": ["a", "b"]},
    "messages": {"messages": [U, A]},
    "transcript": {"text": "Human: Hi\n\nAssistant: Ho"},
    "text": {"text": "Once upon a time"},
    "prompts": {"prompt": "Hi"},
    "kto": {"prompt": "Hi", "completion": "a", "label": True},
    "pair": GOOD_PAIR,
    "implicit pair": {"chosen": "The sky is blue.", "rejected": "The sky is black."},
    "many-sided": {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c"]},
    "hh": {"chosen": "Human: a\n\nAssistant: b", "rejected": "Human: a\n\nAssistant: c"},
    "verdict": {"prompt": "Hi", "response_a": "a", "response_b": "b", "preference": "a"},
    "labellers": {"prompt": "Hi", "response1": "a", "response2": "b", "annotator1": 1},
    "ranking": {"prompt": "Hi", "responses": ["a", "b", "c"], "ranking": ["1", "0", "2"]},
}
every_path = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


@every_path
@pytest.mark.parametrize("weight", [0.5, "0.5", 2, "0"])
def test_weights_are_numbers_on_every_path(read: Read, row: dict[str, Any], weight: Any) -> None:
    groups = read({**row, "weight": weight}, row).groups
    first = groups[: len(groups) // 2]
    assert [g.weight for g in first] == [float(weight)] * len(first)
    assert all("weight" not in g.prompt.meta for g in groups)


@every_path
@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (-1, "negative weight"),
        ("-0.5", "negative weight"),
        ("much", "not a number"),
        (True, "not a number"),
        ("1_000", "not a number"),
        (math.inf, "not a number"),
        (10**400, "not a number"),
        ([1], "not a number"),
    ],
)
def test_bad_weights_are_refused_on_every_path(
    read: Read, row: dict[str, Any], weight: Any, said: str
) -> None:
    result = read({**row, "weight": weight}, row, row)
    (skipped,) = result.skipped
    assert skipped.reason.startswith("field 'weight' is ")
    assert said in skipped.reason


@every_path
def test_rows_can_be_switched_off_but_not_all(read: Read, row: dict[str, Any]) -> None:
    assert sorted({g.weight for g in read({**row, "weight": 0}, row).groups}) == [0, 1]
    with pytest.raises(DataError, match="every row has weight"):
        read({**row, "weight": 0}, {**row, "weight": "0.0"})


JUDGED = {k: ROWS[k] for k in ("pair", "many-sided", "hh", "verdict", "labellers", "ranking")}


@pytest.mark.parametrize("row", JUDGED.values(), ids=JUDGED.keys())
def test_confidence_is_a_share_on_every_path(read: Read, row: dict[str, Any]) -> None:
    sure, *_ = read({**row, "confidence": "0.25"}, row).groups
    assert sure.comparisons
    assert {c.weight for c in sure.comparisons} == {0.25}
    for bad in (-2, 7, "1.01", True):
        (skipped,) = read({**row, "confidence": bad}, row, row).skipped
        assert skipped.reason.startswith("field 'confidence' is ")
    with pytest.raises(DataError, match="every row has weight"):
        read({**row, "confidence": 0})


def test_confidence_weighs_unpaired_judgements(read: Read) -> None:
    assert [g.weight for g in read({**ROWS["kto"], "confidence": 0.5, "weight": 4}).groups] == [2]
    pair = {**GOOD_PAIR, "confidence": 0.5}
    assert [g.weight for g in read(pair, kind="unpaired").groups] == [0.5, 0.5]


@pytest.mark.parametrize("off", [0, 0.0, "0", False, "false", "False", " false "])
@pytest.mark.parametrize("name", ["train", "training"])
def test_a_turn_is_switched_off_by_false_in_any_spelling(read: Read, name: str, off: Any) -> None:
    (group,) = read({"messages": [U, {**A, name: off}, U, {**B, name: "true"}]}).groups
    assert group.responses[0].meta["train"] == (False, True, True)


@pytest.mark.parametrize("name", ["weight", "loss_weight"])
def test_a_turns_weight_is_0_or_1(read: Read, name: str) -> None:
    for off in (0, "0", "0.0", False):
        (group,) = read({"messages": [U, {**A, name: off}, U, {**B, name: "1"}]}).groups
        assert group.responses[0].meta["train"] == (False, True, True)
    for bad in (-1, 0.5, "2", "no", [0]):
        (skipped,) = read({"messages": [U, A]}, {"messages": [U, {**A, name: bad}]}).skipped
        assert "messages[1]" in skipped.reason
        assert name in skipped.reason
    (skipped,) = read({"messages": [U, A]}, {"messages": [U, {**A, "train": "maybe"}]}).skipped
    assert "messages[1].train" in skipped.reason


def test_a_turn_that_is_switched_off_has_no_trained_token(read: Read) -> None:
    encoder = Encoder(build_tokenizer(), max_length=64)
    off = read({"messages": [U, {**A, "train": "false"}, U, B]}).groups
    (encoded,), _ = encoder.encode_all(off, "demonstrations")
    (response,) = encoded.responses
    kept = [i for i, m in zip(response.ids, response.mask, strict=True) if m]
    assert encoder.tokenizer.decode(kept) == "Go away<|eos|>"


def test_a_response_of_a_ranking_can_be_switched_off(read: Read) -> None:
    rows = [
        {
            "prompt": "Hi",
            "responses": [{"text": "a", "rank": 1, "train": flag}, {"text": "b", "rank": 2}],
        }
        for flag in ("false", True)
    ]
    off, on = read(*rows).groups
    assert off.responses[0].meta == {"train": (False,)}
    assert on.responses[0].meta == {}


@pytest.mark.parametrize(
    "labels", [(0, 1), (0.0, 1.0), ("0", "1"), (False, True), ("False", "true")]
)
def test_labels_0_and_1_are_judgements(read: Read, labels: tuple[Any, Any]) -> None:
    rows = [
        {"prompt": "Hi", "completion": c, "label": v} for c, v in zip("ab", labels, strict=True)
    ]
    for result in (read(*rows), read(*rows, kind="unpaired")):
        assert (result.kind, result.format) == ("unpaired", "kto")
        assert [g.responses[0].meta["label"] for g in result.groups] == [False, True]


def test_labels_of_more_classes_are_no_judgements(read: Read) -> None:
    rows = [{"prompt": "Hi", "completion": "a", "label": i} for i in (0, 1, 2)]
    assert read(*rows).kind == "demonstrations"
    with pytest.raises(DataError, match=r"cannot be read as unpaired.*kto \(prompt, completion"):
        read(*rows, kind="unpaired")


def test_json_numbers_that_break_parsers_are_bad_rows(tmp_path: Path) -> None:
    good = json.dumps(GOOD_PAIR)
    big = '{"prompt": "Hi", "chosen": "a", "rejected": "b", "n": ' + "9" * 5000 + "}"
    (tmp_path / "a.jsonl").write_text(f"{good}\n{big}\n{good}\n")
    (tmp_path / "a.json").write_text(f"[{good},\n{big},\n{good}]")
    for name in ("a.jsonl", "a.json"):
        result = read_groups(tmp_path / name)
        assert len(result.groups) == 2
        assert "an integer of 5000 digits" in str(result.skipped[0])
