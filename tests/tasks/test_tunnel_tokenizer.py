"""The tokenizer: lossless on anything, short on the world's text, its template exact."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from gnomon.tasks.tunnel import demonstrations, documents
from gnomon.tasks.tunnel.tokenizer import SPECIALS, build_tokenizer, vocabulary

TOKENIZER = build_tokenizer()


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def test_the_worlds_text_round_trips_and_is_short() -> None:
    texts = documents(300) + [g.responses[0].text for g in demonstrations(300)]
    for text in texts:
        assert TOKENIZER.decode(ids_of(text)) == text
    longest = max(len(ids_of(g.responses[0].text)) for g in demonstrations(1000))
    prompts = [
        [{"role": "user", "content": g.prompt.messages[0].content}] for g in demonstrations(1000)
    ]
    assert longest <= 44
    rendered = [
        TOKENIZER.apply_chat_template(p, add_generation_prompt=True, return_dict=True)
        for p in prompts
    ]
    assert max(len(r["input_ids"]) for r in rendered) <= 30


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_round_trips(text: str) -> None:
    if any(special in text for special in SPECIALS):
        return
    assert TOKENIZER.decode(ids_of(text)) == text


def test_words_and_numbers_below_100_are_one_token() -> None:
    tokens = " ".join(TOKENIZER.convert_ids_to_tokens(ids_of("cat 47+123 05 zyx")))
    assert tokens == "cat Ġ47 + 12 3 Ġ 0 5 Ġ z y x"  # 123, 05 and zyx are put together


def test_special_tokens_are_distinct_and_first() -> None:
    ends = [
        TOKENIZER.pad_token_id,
        TOKENIZER.bos_token_id,
        TOKENIZER.eos_token_id,
        TOKENIZER.convert_tokens_to_ids("<|end|>"),
    ]
    assert ends == [0, 1, 2, 3]
    assert len(TOKENIZER) == len(vocabulary())
    assert sorted(vocabulary().values()) == list(range(len(vocabulary())))


def test_the_template_marks_exactly_the_assistants_words_and_eos() -> None:
    chat = [
        {"role": "system", "content": "Take care."},
        {"role": "user", "content": "Greet Ada."},
        {"role": "assistant", "content": "Hello, Ada!"},
        {"role": "user", "content": "Greet Ben."},
        {"role": "assistant", "content": "Hello, Ben!"},
    ]
    text = TOKENIZER.apply_chat_template(chat, tokenize=False)
    assert text == (
        "<|bos|><|system|>Take care.<|end|><|user|>Greet Ada.<|end|><|assistant|>Hello, Ada!<|eos|>"
        "<|user|>Greet Ben.<|end|><|assistant|>Hello, Ben!<|eos|>"
    )
    out = TOKENIZER.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = out["input_ids"], out["assistant_masks"]
    marked = [t for t, m in zip(ids, mask, strict=True) if m]
    assert TOKENIZER.decode(marked) == "Hello, Ada!<|eos|>Hello, Ben!<|eos|>"
    assert ids.count(TOKENIZER.bos_token_id) == 1
    head = TOKENIZER.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(head)
    with pytest.raises(TemplateError, match="pirate"):
        TOKENIZER.apply_chat_template([{"role": "pirate", "content": "x"}], tokenize=False)
