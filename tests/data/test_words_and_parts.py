"""What words and parts of messages mean, and that none is dropped without a word."""

from __future__ import annotations

from typing import Any

import pytest

from gnomon.data.readers import read_groups
from gnomon.data.values import RowError
from gnomon.data.verdicts import verdict
from gnomon.errors import DataError

VERDICTS = {
    "a": ["A", "model_a", "Response A", "a-is-better", "A is slightly better", "A>B", "A >> B",
          "[[A]]", "B<A", "A is better than B", "A is better overall", "A (slightly)", "A: better",
          "a strongly preferred", "model a (gpt4)"],
    "b": ["b", "Model B", "B>A", "A<B", "[[B>>A]]", "assistant B wins"],
    "tie": ["tie", "Tie", "tie (bothbad)", "A=B", "[[A=B]]", "equal", "a draw", "tie_bothbad",
            "tie-both good", "It's a tie", "both tie"],
}  # fmt: skip
REFUSED = [
    *("A/B", "A or B", "a and b are equal", "A is worse", "b is worse than a", "A: prettier"),
    *(
        "Response A has better properties",
        "A, entities are right",
        "A>A",
        "a better than a",
        "A (or B)",
        "",
    ),
]


@pytest.mark.parametrize(("meaning", "text"), [(m, t) for m, ts in VERDICTS.items() for t in ts])
def test_words_that_name_a_side(meaning: str, text: str) -> None:
    assert verdict(text, {}) == meaning


@pytest.mark.parametrize("text", REFUSED)
def test_words_that_name_neither_or_both_are_refused(text: str) -> None:
    with pytest.raises(RowError, match="not understood"):
        verdict(text, {})


def one(row: dict[str, Any]) -> Any:
    (group,) = read_groups([row]).groups
    return group


def test_a_call_in_openais_older_form_is_a_call() -> None:
    call = {"name": "look", "arguments": '{"at": "the sky"}'}
    messages = [
        {"role": "user", "content": "Is it blue?"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "look", "content": "blue"},
        {"role": "assistant", "content": "Yes."},
    ]
    functions = [{"name": "look", "parameters": {"type": "object"}}]
    old = one({"messages": messages, "functions": functions})
    new = [dict(message) for message in messages]
    del new[1]["function_call"]
    new[1]["tool_calls"] = [{"type": "function", "function": call}]
    known = one({"messages": new, "tools": functions})
    assert [m.content for m in old.prompt.messages] == [m.content for m in known.prompt.messages]
    assert "<tool_call>" in "".join(m.content for r in old.responses for m in r.messages)
    assert old.responses[0].messages == known.responses[0].messages


def test_reasoning_is_read_under_each_of_its_names() -> None:
    texts = {
        one({"messages": [{"role": "user", "content": "q"},
                          {"role": "assistant", "content": "a", name: "since"}]}).responses[0].text
        for name in ("reasoning", "reasoning_content", "thinking")
    }  # fmt: skip
    assert texts == {"<think>\nsince\n</think>\n\na"}


USER, YES, NO = (
    {"role": role, "content": text}
    for role, text in (("user", "q"), ("assistant", "yes"), ("assistant", "no"))
)
SYSTEM = {"role": "system", "content": "Be a pirate."}


def test_a_prompt_beside_whole_conversations_keeps_its_earlier_turns() -> None:
    pair = {"chosen": [USER, YES], "rejected": [USER, NO]}
    whole = one({"prompt": [SYSTEM, USER], **pair})
    assert [m.role for m in whole.prompt.messages] == ["system", "user"]
    assert len(one({"prompt": [USER], **pair}).prompt.messages) == 1
    assert len(one({"prompt": "q", **pair}).prompt.messages) == 1
    told = {"chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO]}
    for prompt in ([USER], [{**USER, "content": "q "}], [SYSTEM, USER]):
        assert len(one({"prompt": prompt, **told}).prompt.messages) == 2
    with pytest.raises(DataError, match="not those that chosen and rejected begin with"):
        one({"prompt": [{"role": "user", "content": "another"}], **pair})
