"""What real families' chat templates do, each in a few lines: what is trained, what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from test_encode import byte_tokenizer, demo, messages, pair, trained_text, whole_text

from gnomon.data.chat import merge_answer
from gnomon.data.encode import Encoder
from gnomon.data.template import ChatTemplate
from gnomon.data.values import RowError
from gnomon.errors import DataError
from gnomon.records import Group, Message, Prompt, Response

IM = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
CUE = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = "{% for m in messages %}" + IM + "{% endfor %}" + CUE
USER = "{{ '<|user|>' + m.content }}"

DISTILLED = (  # DeepSeek R1's distillations and V3: the cue opens a reasoning, turns drop it
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}" + USER + "{% else %}"
    "{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
NEMOTRON = (  # a turn without reasoning says so
    "{% for m in messages %}{% if m.role == 'user' %}" + IM + "{% else %}"
    "{{ '<|im_start|>assistant\n' + ('' if '<think>' in m.content else '<think></think>') }}"
    "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
GEMMA4 = (  # the cue holds an empty reasoning, the turns do not
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n<|channel>thought\n<channel|>' }}{% endif %}"
)
QWEN3 = (  # the last turn reasons, earlier ones lose it
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.last and '<think>' not in m.content %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] | trim }}{{ '<|im_end|>\n' }}"
    "{% else %}" + IM + "{% endif %}{% endfor %}" + CUE
)
COHERE2 = (  # two tokens close a turn, the second is the EOS
    "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' %}"
    "{{ '<|eot|>' + m.content + '<|im_end|>' }}{% else %}{{ m.content }}{% endif %}"
    "{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|eot|>' }}{% endif %}"
)
HARMONY = (  # gpt-oss: the last turn ends otherwise than earlier ones
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{{ eos_token if loop.last and m.role == 'assistant' else '<|im_end|>' }}{% endfor %}" + CUE
)
STRICT = (  # Gemma: no system role, strict alternation
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}" + CUE
)
GENERATION = "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
REASONED = "<think>\nBecause.\n</think>\n\nBlue."


def made(template: str, **known: Any) -> Any:
    tokenizer = byte_tokenizer(**{"eos_token": "</s>", **known})
    tokenizer.chat_template = template
    return tokenizer


def encoded(template: str, *contents: str, **options: Any) -> tuple[str, list[str]]:
    """The prompt's text, and the trained stretches."""
    tokenizer = made(template)
    group = Encoder(tokenizer, max_length=2000, **options).encode_demonstration(demo(*contents))
    written = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages(*contents)], tokenize=False
    )
    if "</think>" not in contents[-1]:
        assert whole_text(tokenizer, group) in written
    return str(tokenizer.decode(group.prompt_ids)), trained_text(tokenizer, group)


@pytest.mark.parametrize("template", [DISTILLED, NEMOTRON, GEMMA4, QWEN3])
def test_a_rollout_needs_only_the_cue(template: str) -> None:
    tokenizer = made(template)
    question = [{"role": "user", "content": "Hi"}]
    cue = tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    encoder = Encoder(tokenizer, max_length=200)
    assert encoder.encode_prompt(Prompt("p", messages("Hi"))) == cue
    done, skipped = encoder.encode_all([Group(Prompt("p", messages("Hi")))], "prompts")
    assert list(done[0].prompt_ids) == cue
    assert skipped == []


def test_a_cue_that_opens_a_reasoning_the_turns_drop() -> None:
    """Without reasoning, as the template writes it; with reasoning, as a rollout goes on."""
    assert encoded(DISTILLED, "Hi", "Blue.") == ("<s><|user|>Hi<|assistant|>", ["Blue.</s>"])
    prompt, trained = encoded(DISTILLED, "Hi", REASONED)
    assert prompt == "<s><|user|>Hi<|assistant|><think>\n"
    assert trained == ["Because.\n</think>\n\nBlue.</s>"]
    unopened = REASONED.removeprefix("<think>\n")  # as such models write it themselves
    assert encoded(DISTILLED, "Hi", unopened) == (prompt, trained)
    _, both = encoded(DISTILLED, "Hi", "Blue.", "And?", "Red.")
    assert both == ["Blue.</s>", "Red.</s>"]
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encoded(DISTILLED, "Hi", REASONED, "And?", "Red.")
    _, last = encoded(DISTILLED, "Hi", REASONED, "And?", "Red.", train_on="last")
    assert last == ["Red.</s>"]
    tagged = "<b>Blue.</b>"  # its "<" is not the cue's
    assert encoded(DISTILLED, "Hi", tagged) == ("<s><|user|>Hi<|assistant|>", [tagged + "</s>"])


def test_a_group_whose_answers_reason_and_do_not_shares_one_prompt() -> None:
    tokenizer = made(DISTILLED)
    group = Encoder(tokenizer, max_length=500).encode_group(pair(REASONED, "Red."))
    assert tokenizer.decode(group.prompt_ids).endswith("<|assistant|>")
    assert trained_text(tokenizer, group, 0) == ["Because.\n</think>\n\nBlue.</s>"]
    assert trained_text(tokenizer, group, 1) == ["Red.</s>"]
    assert "<think>\n" in whole_text(tokenizer, group, 0)
    reasoned = Encoder(tokenizer, max_length=500).encode_group(pair(REASONED, "<think>No</think>"))
    cue = Encoder(tokenizer, max_length=500).encode_prompt(Prompt("p", messages("Hi")))
    assert list(reasoned.prompt_ids) == cue


def test_an_empty_reasoning_in_turns_or_in_the_cue() -> None:
    prompt, trained = encoded(NEMOTRON, "Hi", "Blue.")
    assert prompt.endswith("<think>")
    assert trained == ["</think>Blue.<|im_end|>"]
    prompt, trained = encoded(NEMOTRON, "Hi", REASONED)
    assert prompt.endswith("<think>\n")
    assert trained == ["Because.\n</think>\n\nBlue.<|im_end|>"]
    tokenizer = made(GEMMA4)
    encoder = Encoder(tokenizer, max_length=500)
    group = encoder.encode_demonstration(demo("Hi", "Blue."))
    assert list(group.prompt_ids) == encoder.encode_prompt(Prompt("p", messages("Hi")))
    assert trained_text(tokenizer, group) == ["Blue.<|im_end|>"]
    both = encoder.encode_demonstration(demo("Hi", "Blue.", "And?", "Red."))
    assert trained_text(tokenizer, both) == ["Blue.<|im_end|>", "Red.<|im_end|>"]


def test_dropped_reasoning_and_train_on_last() -> None:
    assert encoded(QWEN3, "Hi", REASONED)[1] == [REASONED + "<|im_end|>"]
    with pytest.raises(DataError, match=r"rewrites earlier turns.*train_on: last"):
        encoded(QWEN3, "Hi", REASONED, "And?", "Red.")
    prompt, trained = encoded(QWEN3, "Hi", REASONED, "And?", "Red.", train_on="last")
    assert "assistant\nBlue.<|im_end|>" in prompt
    assert trained == ["<think>\n\n</think>\n\nRed.<|im_end|>"]
    tokenizer = made(QWEN3)  # the earlier turn is switched off in the data: nothing to refuse
    off = demo("Hi", REASONED, "And?", "Red.", train=(False, True, True))
    group = Encoder(tokenizer, max_length=500).encode_demonstration(off)
    assert trained_text(tokenizer, group) == ["<think>\n\n</think>\n\nRed.<|im_end|>"]
    base = pair("x", "y")
    answers = tuple(
        Response(messages("", first, "And?", last)[1:], rank=rank)
        for first, last, rank in (("x", "good", 1.0), ("y", "bad", 2.0))
    )
    several = Group(base.prompt, answers)
    group = Encoder(tokenizer, max_length=500, train_on="last").encode_group(several)
    assert trained_text(tokenizer, group, 1) == ["<think>\n\n</think>\n\nbad<|im_end|>"]


def test_every_token_that_closes_a_turn_is_trained() -> None:
    both = ["Blue.<|im_end|></s>", "Red.<|im_end|></s>"]
    assert encoded(COHERE2, "Hi", "Blue.", "And?", "Red.")[1] == both
    assert encoded(HARMONY, "Hi", "Blue.")[1] == ["Blue.</s>"]
    assert encoded(HARMONY, "Hi", "Blue.", "And?", "Red.")[1] == ["Blue.<|im_end|>", "Red.</s>"]
    assert Encoder(made(COHERE2), max_length=99).stop_ids == (made(COHERE2).eos_token_id,)


def test_a_template_without_a_generation_prompt_is_given_one() -> None:
    """Else a rollout would have to write the turn's header itself."""
    bare = "{% for m in messages %}" + IM + "{% endfor %}"
    prompt, trained = encoded(bare, "Hi", "Blue.")
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert trained == ["Blue.<|im_end|>"]
    encoder = Encoder(made(bare), max_length=99)
    assert str(encoder.template).startswith(bare)
    assert "add_generation_prompt" in str(encoder.template)
    again = Encoder(made(str(encoder.template)), max_length=99)  # as the saved model has it
    assert again.template == encoder.template


def test_todays_date_is_not_in_the_tokens() -> None:
    dated = (
        "{{ strftime_now('%d %b %Y') }}{% if strftime_now is defined %}{{ strftime_now('%H') }}"
        "{% endif %}" + CHATML
    )
    prompt = Encoder(made(dated), max_length=99).encode_prompt(Prompt("p", messages("Hi")))
    assert made(dated).decode(prompt).startswith("26 Jul 202400<|im_start|>user")


def test_templates_that_want_content_in_parts() -> None:
    parts = CHATML.replace("m.content", "m.content[0].text")
    tokenizer = made(parts)
    group = Encoder(tokenizer, max_length=99).encode_demonstration(demo("Hi", "Blue."))
    assert trained_text(tokenizer, group) == ["Blue.<|im_end|>"]


def test_trimmed_content_is_trained_as_it_is_written() -> None:
    assert encoded(STRICT, "Hi", "  Blue.\n")[1] == ["Blue.<|im_end|>"]


# --- merging turns ------------------------------------------------------------------------------

SYSTEM = (Message("system", "Be brief."), *messages("Hi"))


def test_templates_without_a_system_role_or_with_alternation() -> None:
    tokenizer = made(STRICT)
    group = Group(Prompt("s", SYSTEM), (Response(messages("", "Blue.")[1:]),))
    with pytest.raises(DataError, match=r"System role not supported.*merge: \[system, tool"):
        Encoder(tokenizer, max_length=99).encode_demonstration(group)
    encoder = Encoder(tokenizer, max_length=99, merge=["system"])
    encoded = encoder.encode_demonstration(group)
    assert "user\nBe brief.\n\nHi<|im_end|>" in tokenizer.decode(encoded.prompt_ids)
    assert list(encoded.prompt_ids) == encoder.encode_prompt(group.prompt)
    assert trained_text(tokenizer, encoded) == ["Blue.<|im_end|>"]
    marked = made(STRICT + GENERATION)
    with pytest.raises(DataError, match="System role not supported"):
        Encoder(marked, max_length=99).encode_demonstration(group)
    said = (
        Message("assistant", "call"),
        Message("tool", "42"),
        Message("user", "Well?"),
        Message("assistant", "It is"),
        Message("assistant", "42."),
    )
    turns = Group(Prompt("t", (*messages("Hi"), Message("user", "there"))), (Response(said),))
    merged = Encoder(tokenizer, max_length=200, merge=["tool", "turns"]).encode_demonstration(turns)
    assert trained_text(tokenizer, merged) == ["call<|im_end|>", "It is\n\n42.<|im_end|>"]
    assert "user\n42\n\nWell?<|im_end|>" in whole_text(tokenizer, merged)
    assert "user\nHi\n\nthere<|im_end|>" in whole_text(tokenizer, merged)


def test_merging_keeps_what_is_trained() -> None:
    turns = [Message("assistant", "a"), Message("assistant", "b")]
    assert merge_answer(turns, [False, False], ["turns"]) == (
        (Message("assistant", "a\n\nb"),),
        (False,),
    )
    with pytest.raises(RowError, match="only one of them is trained on"):
        merge_answer(turns, [True, False], ["turns"])
    late = [*messages("Hi", "Yo"), Message("system", "Now."), *messages("", "Ok")[1:]]
    merged, _ = merge_answer(late, [True] * 4, ["system"])
    assert [m.role for m in merged] == ["user", "assistant", "user", "assistant"]
    only, _ = merge_answer([Message("system", "Now.")], [True], ["system"])
    assert only == (Message("user", "Now."),)


# --- ends and beginnings that the text carries already -----------------------------------------


def text_group(prompt: str, answer: str) -> Group:
    return Group(Prompt("t", text=prompt), (Response((Message("assistant", answer),)),))


@pytest.mark.parametrize("ending", ["</s>", "</s>\n", "<|im_end|>", "<|im_end|>\n "])
def test_an_end_of_turn_in_the_text_is_not_doubled(ending: str) -> None:
    tokenizer = made(CHATML)
    encoder = Encoder(tokenizer, max_length=200)
    chat = encoder.encode_demonstration(demo("Hi", "Blue." + ending))
    assert trained_text(tokenizer, chat) == ["Blue.<|im_end|>"]
    several = encoder.encode_demonstration(demo("Hi", "Blue." + ending, "And?", "Red." + ending))
    assert trained_text(tokenizer, several) == ["Blue.<|im_end|>", "Red.<|im_end|>"]
    rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    plain = encoder.encode_demonstration(text_group(rendered, "Blue." + ending))
    assert trained_text(tokenizer, plain) == ["Blue." + ending.rstrip()]
    assert plain.prompt_ids == tokenizer(rendered).input_ids


def test_a_bos_in_the_text_is_not_doubled() -> None:
    tokenizer = byte_tokenizer(bos=True, eos_token="</s>")
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    encoder = Encoder(tokenizer, max_length=200)
    groups = (
        encoder.encode_demonstration(text_group("<s>[INST] Hi [/INST]", " Blue.</s>")),
        encoder.encode_demonstration(text_group("Hi", " Blue.")),
        encoder.encode_demonstration(demo("<s>Hi", "Blue.")),
        encoder.encode_demonstration(text_group("", "<s>[INST] Hi [/INST] Blue.</s>")),
        encoder.encode_document("<s>[INST] Hi [/INST] Blue.</s>")[0],
        encoder.encode_document("<s>[INST] Hi [/INST] Blue.</s>\n")[0],
        encoder.encode_document("Hi")[0],
    )
    for group in groups:
        ids = [*group.prompt_ids, *group.responses[0].ids]
        assert ids.count(bos) == 1
        assert ids[0] == bos
        assert ids.count(eos) <= 1
        assert ids[-1] in encoder.stop_ids


def test_rendered_text_read_as_chat_is_refused() -> None:
    rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    encoder = Encoder(made(CHATML), max_length=200)
    with pytest.raises(DataError, match=r"already ends with the chat template's.*as_text: true"):
        encoder.encode_demonstration(demo(rendered, "Blue."))
    with pytest.raises(DataError, match="as_text: true"):
        encoder.encode_prompt(Prompt("p", messages(rendered)))


@pytest.mark.parametrize("nothing", ["", " \n", "</s>", "<|im_end|>\n"])
def test_an_answer_that_says_nothing_is_refused(nothing: str) -> None:
    encoder = Encoder(made(CHATML), max_length=200)
    with pytest.raises(DataError, match=r"assistant turn is empty.*train: false"):
        encoder.encode_demonstration(demo("Hi", nothing))
    with pytest.raises(DataError, match="assistant turn is empty"):
        encoder.encode_demonstration(demo("Hi", "Yo", "And?", nothing))
    with pytest.raises(DataError, match="assistant turn is empty"):
        encoder.encode_demonstration(text_group("Hi", nothing))
    off = demo("Hi", nothing, "And?", "Blue.", train=(False, True, True))
    assert trained_text(made(CHATML), encoder.encode_demonstration(off)) == ["Blue.<|im_end|>"]
    scored = encoder.encode_group(
        demo("Hi", nothing), empty_ok=True
    )  # a rollout that ended at once
    assert trained_text(made(CHATML), scored)[0].endswith("<|im_end|>")


def test_real_families_templates() -> None:
    """Those that TRL carries: each takes a rollout's prompt, and trains the words and their end."""
    trl = pytest.importorskip("trl")
    from pathlib import Path

    names = (
        *("cohere2", "deepseek_r1_distill", "deepseekv3", "gemma3", "gemma4", "gptoss", "llama3_2"),
        *("nemotron_3_nano", "qwen3", "qwen3_5_think", "qwen3_instruct_2507", "phi3_5", "lfm2"),
    )
    for name in names:
        source = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
        tokenizer = byte_tokenizer(eos_token="</s>")
        encoder = Encoder(tokenizer, max_length=3000, template=str(source))
        assert encoder.encode_prompt(Prompt("p", messages("Hi")))
        for last in ("Hello you", REASONED):
            contents = ("Hi", "Hello", "Again?", last)
            group = Encoder(
                tokenizer, max_length=3000, template=str(source), train_on="last"
            ).encode_demonstration(demo(*contents))
            (trained,) = trained_text(tokenizer, group)
            end = ChatTemplate(tokenizer, source.read_text()).ends.turn_end
            assert trained.endswith((last.split("</think>")[-1].strip() + end, end + "</s>"))
            if last == REASONED and name != "gemma4":
                assert "Because." in trained
