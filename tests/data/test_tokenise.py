"""The trained tokens are the template's own, for every kind of tokenizer.

Oracles: ``apply_chat_template`` for the tokens, and its assistant mask for what is trained.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_zoo import MAKERS, MARKED, TEMPLATES, Letters, tokenizer

from gnomon.data.encode import Encoder
from gnomon.data.tokenise import SpanTokeniser
from gnomon.errors import DataError
from gnomon.records import Group, Message, Prompt, Response, TokenGroup

ROLES = ("user", "assistant")


def said(contents: list[str]) -> list[dict[str, str]]:
    return [{"role": ROLES[i % 2], "content": c} for i, c in enumerate(contents)]


def conversation(contents: list[str]) -> Group:
    turns = tuple(Message(ROLES[i % 2], c) for i, c in enumerate(contents))
    return Group(Prompt("d", turns[:1]), (Response(turns[1:]),))


def own(kind: Any, contents: list[str], **options: Any) -> list[int]:
    """The template's own tokens."""
    return list(kind.apply_chat_template(said(contents), tokenize=True, **options)["input_ids"])


def flat(group: TokenGroup, k: int = 0) -> tuple[list[int], list[int]]:
    response = group.responses[k]
    ids = [*group.prompt_ids, *response.ids]
    return ids, [0] * len(group.prompt_ids) + [int(m) for m in response.mask]


BLIND = ("bytes", "bytes-prefix", "wordpiece")
"""Their offsets leave spaces out, and transformers gives up a mask that begins with one."""
UNSPACED = ("chatml", "zephyr", "glued")
WORD = st.sampled_from(["Paris", "Hello", "Blue.", "a", "1", "[", "Yes,", "été", "<b>", "\n", "ok"])
SAID = st.lists(WORD, min_size=1, max_size=5).map(" ".join).filter(lambda s: s.strip() == s)
TURNS = st.integers(1, 3).flatmap(lambda n: st.lists(SAID, min_size=2 * n, max_size=2 * n))


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(template=st.sampled_from(sorted(TEMPLATES)), contents=TURNS)
def test_trained_tokens_are_the_templates_own(
    kind: str, template: str, contents: list[str]
) -> None:
    made = tokenizer(kind, template)
    encoder = Encoder(made, max_length=5000)
    ids, mask = flat(encoder.encode_demonstration(conversation(contents)))
    whole = own(made, contents)
    openings = [
        own(made, contents[:i], add_generation_prompt=True) for i in range(1, len(contents), 2)
    ]
    assert ids[: len(openings[0])] == openings[0]
    if kind != "wordpiece":  # whose pieces are written otherwise within a word
        ours, theirs = ("".join(made.convert_ids_to_tokens(i)) for i in (ids, whole))
        assert theirs.startswith(ours)  # no "▁" more or less, wherever tokens were taken apart
    if all(whole[: len(opening)] == opening for opening in openings):
        assert ids == whole[: len(ids)]
        made.chat_template = MARKED[template]
        oracle = made.apply_chat_template(
            said(contents), return_dict=True, return_assistant_tokens_mask=True
        )["assistant_masks"]
        if kind not in BLIND or (template in UNSPACED and kind != "bytes-prefix"):
            assert mask == oracle[: len(mask)]
            assert not any(oracle[len(mask) :])
        marked = Encoder(made, max_length=5000).encode_demonstration(conversation(contents))
        assert flat(marked) == (ids, mask)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    template=st.sampled_from(sorted(TEMPLATES)),
    question=SAID,
    answers=st.lists(SAID, min_size=2, max_size=3),
)
def test_a_groups_prompt_is_a_rollouts(
    kind: str, template: str, question: str, answers: list[str]
) -> None:
    made = tokenizer(kind, template)
    encoder = Encoder(made, max_length=5000)
    prompt = Prompt("p", (Message("user", question),))
    responses = tuple(Response((Message("assistant", a),)) for a in answers)
    group = encoder.encode_group(Group(prompt, responses))
    assert list(group.prompt_ids) == encoder.encode_prompt(prompt)
    assert list(group.prompt_ids) == own(made, [question], add_generation_prompt=True)
    for k, answer in enumerate(answers):
        alone = encoder.encode_group(Group(prompt, responses[k : k + 1]))
        assert flat(group, k) == flat(alone)
        single = encoder.encode_demonstration(conversation([question, answer]))
        assert flat(single) == flat(group, k)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=SAID, answer=SAID, gap=st.sampled_from(["", " ", "\n"]))
def test_plain_text_goes_on_from_its_prompt(kind: str, prompt: str, answer: str, gap: str) -> None:
    made = tokenizer(kind)
    group = Group(Prompt("t", text=prompt), (Response((Message("assistant", gap + answer),)),))
    ids, mask = flat(Encoder(made, max_length=5000).encode_group(group))
    opening = made(prompt).input_ids
    whole = [*made(prompt + gap + answer).input_ids, made.eos_token_id]
    assert ids[: len(opening)] == opening
    assert mask == [0] * len(opening) + [1] * (len(ids) - len(opening))
    assert ids[-1] == made.eos_token_id
    assert ids.count(made.eos_token_id) == 1
    if whole[: len(opening)] == opening:
        assert ids == whole
    elif kind != "wordpiece":
        ours, theirs = ("".join(made.convert_ids_to_tokens(i)) for i in (ids, whole))
        assert ours == theirs


def test_a_word_after_a_line_break_gains_no_space() -> None:
    """The case of the public reports: "▁Paris" was trained, and the template writes "Paris"."""
    for kind in ("first", "always"):
        made = tokenizer(kind, "zephyr")
        encoder = Encoder(made, max_length=500)
        group = encoder.encode_demonstration(conversation(["Hi", "Paris", "Again?", "Blue."]))
        trained = [
            made.convert_ids_to_tokens(i)
            for i, m in zip(group.responses[0].ids, group.responses[0].mask, strict=True)
            if m
        ]
        assert "".join(trained) == "Paris</s>Blue.</s>"


def test_a_token_over_the_prompts_edge_is_taken_apart() -> None:
    """ "\\n" + "\\n" is one token of the whole text; a rollout was given the first already."""
    made = tokenizer("bytes")
    assert len(made("\n\n").input_ids) == 1
    text = Group(Prompt("t", text="Hello\n"), (Response((Message("assistant", "\nworld"),)),))
    group = Encoder(made, max_length=99).encode_group(text)
    assert list(group.prompt_ids) == made("Hello\n").input_ids
    assert made.convert_ids_to_tokens(group.responses[0].ids)[0] == "Ċ"
    assert made.decode([*group.prompt_ids, *group.responses[0].ids]) == "Hello\n\nworld</s>"


def test_a_token_over_a_turns_end_stays_and_is_trained() -> None:
    """As transformers' own mask has it."""
    made = tokenizer("bytes")
    made.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q' + m.content + '<eot>' }}"
        "{% else %}{% generation %}{{ m.content }}{% endgeneration %}{{ '\n\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{% endif %}"
    )
    contents = ["Hi", "world\n", "Hi", "Red."]
    ids, mask = flat(Encoder(made, max_length=99).encode_demonstration(conversation(contents)))
    oracle = made.apply_chat_template(
        said(contents), return_dict=True, return_assistant_tokens_mask=True
    )
    both = made("\n\n").input_ids[0]
    assert mask[ids.index(both)] == 1
    last = len(ids) - 1  # closed by an EOS, which the template leaves out
    assert ids[:last] == oracle["input_ids"][:last]
    assert mask[:last] == oracle["assistant_masks"][:last]


def test_a_special_token_that_takes_in_the_space_after_it() -> None:
    """As Phi-3's do (rstrip)."""
    from tokenizers import AddedToken

    made = MAKERS["first"]()
    made.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<turn>", rstrip=True, special=True)]}
    )
    made.chat_template = (
        "{% for m in messages %}{{ '<turn>\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<turn>\n' }}{% endif %}"
    )
    ids, mask = flat(
        Encoder(made, max_length=99).encode_demonstration(conversation(["a", "Blue.", "b", "Red."]))
    )
    assert ids == own(made, ["a", "Blue.", "b", "Red."])[: len(ids)]
    trained = [t for t, m in zip(made.convert_ids_to_tokens(ids), mask, strict=True) if m]
    assert "".join(trained).replace("▁", "") == "Blue.<|im_end|>Red.<|im_end|>"


def test_what_looks_like_a_special_token_but_is_unknown_text() -> None:
    made = tokenizer("first", "chatml")
    for word in ("<unk>", "<|nothing|>", "</s", "a<s>b"):
        ids, _ = flat(Encoder(made, max_length=99).encode_demonstration(conversation([word, word])))
        assert ids == own(made, [word, word])[: len(ids)]


def test_a_tokenizer_without_offsets() -> None:
    """Mapped by the tokens before each edge; refused where a token crosses one."""
    slow = Letters()
    assert not slow.is_fast
    slow.add_special_tokens({"additional_special_tokens": ["<eot>"]})
    slow.chat_template = (
        "{% for m in messages %}{{ m.role + ':' + m.content + '<eot>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    encoder = Encoder(slow, max_length=200)
    contents = ["all", "see", "hi", "good"]
    ids, mask = flat(encoder.encode_demonstration(conversation(contents)))
    assert ids == own(slow, contents)[: len(ids)]
    trained = [t for t, m in zip(slow.convert_ids_to_tokens(ids), mask, strict=True) if m]
    assert trained == ["s", "ee", "<eot>", "g", "oo", "d", "<eot>"]
    over = conversation(["all", ":)"])
    done, skipped = encoder.encode_all([conversation(["a", "b"]), over], "demonstrations")
    assert len(done) == 1
    assert "crosses the edge" in skipped[0].reason
    assert "tokenizer.json" in skipped[0].cure


def test_a_tokenizer_that_cannot_be_mapped_is_refused_at_once() -> None:
    slow = Letters()
    slow.chat_template = (
        "{% for m in messages %}{{ m.role + 'g' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistantg' }}{% endif %}"
    )  # "g" and "gnomon probe" share a token
    with pytest.raises(DataError, match=r"cannot be used with this chat template.*tokenizer\.json"):
        Encoder(slow, max_length=200, template=slow.chat_template)


def test_following_text_keeps_what_came_before() -> None:
    """What a tool says after a sampled turn: the turn's tokens stay, nothing is put before it."""
    for kind in MAKERS:
        made = tokenizer(kind)
        tokens = SpanTokeniser(made)
        before, after = "Hello<|im_end|>", "\nParis<|im_end|>\n"
        whole = made(before + after, add_special_tokens=False).input_ids
        assert [*tokens.ids(before), *tokens.following(before, after)] == whole
