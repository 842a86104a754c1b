"""The Modelfile's template, written out by an evaluator of its own, against the chat template."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.export.ollama import go_template, modelfile, take_apart
from tiny_world import tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
FOLDED = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>"
    "{{ s if loop.first else '' }}{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ALWAYS = (
    "<system>Today{% if messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% set messages = messages[1:] %}{% endif %}</s>"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LONG = (
    "{% for m in messages %}<{{ m.role }}{{ loop.index if loop.length > 4 else '' }}>"
    "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [
    {"role": "user", "content": "first\nquestion"},
    {"role": "assistant", "content": "an answer"},
    {"role": "user", "content": "and then?"},
]
TOLD = [{"role": "system", "content": "Be short."}, *TALK]


def render(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template writes, for the actions that a Modelfile of ours has."""
    before, _, rest = template.partition("{{ range .Messages }}")
    body, _, after = rest.rpartition("{{ end }}{{ end }}")
    branches = re.findall(
        r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else if|\Z)', body, re.DOTALL
    )
    said = ""
    for message in messages:
        text = dict(branches).get(message["role"], "")
        said += text.replace("{{ .Content }}", message["content"])
    assert "{{" not in before + said + after
    return before + said + after


def with_template(template: str | None) -> Any:
    found = copy.deepcopy(tokenizer())
    if template is not None:
        found.chat_template = template
    return found


@pytest.mark.parametrize("template", [None, CHATML, TRIMMED, NO_SYSTEM])
def test_ollama_writes_what_the_template_writes(template: str | None) -> None:
    tok = with_template(template)
    pieces = take_apart(tok, tok.chat_template)
    go = go_template(pieces, adds_bos=False)
    for messages in (TALK[:1], TALK, TOLD, TOLD[:2]):
        if template == NO_SYSTEM and messages[0]["role"] == "system":
            continue
        sent = list(messages)  # what Ollama does with SYSTEM, where the caller gives none
        if pieces.system and sent[0]["role"] != "system":
            sent.insert(0, {"role": "system", "content": pieces.system})
        expected = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert render(go, sent) == expected


def test_bos_is_left_to_llama_cpp_where_it_adds_one() -> None:
    tok = with_template(None)
    pieces = take_apart(tok, tok.chat_template)
    assert go_template(pieces, adds_bos=False).startswith("<|bos|>")
    assert not go_template(pieces, adds_bos=True).startswith("<|bos|>")


def test_a_bos_that_opens_every_turn_stays_with_the_turns() -> None:
    """SmolLM2's BOS is ChatML's <|im_start|>, also where llama.cpp adds a BOS itself."""
    tok = with_template(CHATML)
    tok.add_special_tokens({"bos_token": "<|im_start|>"})
    go = go_template(take_apart(tok, CHATML), adds_bos=True)
    assert render(go, TOLD) == tok.apply_chat_template(
        TOLD, tokenize=False, add_generation_prompt=True
    )


def test_the_modelfile() -> None:
    pieces = take_apart(with_template(CHATML), CHATML)
    text = modelfile(pieces, "model-f16.gguf", ["<|im_end|>"], adds_bos=False)
    assert "\nFROM ./model-f16.gguf\n" in text
    assert '\nSYSTEM """You are helpful."""\n' in text
    assert '\nPARAMETER stop "<|im_end|>"\n' in text


def test_what_is_not_the_same_is_noted() -> None:
    (note,) = take_apart(with_template(TRIMMED), TRIMMED).notes
    assert "trims spaces" in note
    (note,) = take_apart(with_template(NO_SYSTEM), NO_SYSTEM).notes
    assert "no system message" in note
    assert not take_apart(with_template(CHATML), CHATML).notes


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (FOLDED, "puts the system message into the user's turn"),
        (ALWAYS, "system turn without words|words of its own"),
        (LONG, "not write every message alike"),
        (CHATML.replace("<|im_end|>", '"""'), "which a Modelfile cannot hold"),
        (CHATML.replace("['content']", "['content'] | replace('<', '(')"), "alike"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_the_reason(template: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        take_apart(with_template(template), template)
    assert "--to gguf" in str(refused.value)
