"""Encoding: which tokens come out, and which of them are trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gnomon.data.chat import CHATML
from gnomon.data.encode import Encoder
from gnomon.errors import DataError
from gnomon.records import Comparison, Group, Message, Prompt, Response, Source, TokenGroup

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot|>"]
CHAT = CHATML.replace("END", "'<|im_end|>'")


def byte_tokenizer(*, bos: bool = False, **known: Any) -> PreTrainedTokenizerFast:
    """One token a byte, and a few special tokens: text decodes to itself, lengths are plain."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    if bos:
        first = ("<s>", core.token_to_id("<s>"))
        core.post_processor = processors.TemplateProcessing("<s> $A", None, [first])
    names = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", **known}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@pytest.fixture(scope="module")
def chat() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def messages(*contents: str) -> tuple[Message, ...]:
    """user, assistant, user, ..."""
    roles = ("user", "assistant")
    return tuple(Message(roles[i % 2], c) for i, c in enumerate(contents))


def demo(*contents: str, **meta: Any) -> Group:
    said = messages(*contents)
    return Group(Prompt("d", said[:1]), (Response(said[1:], meta=meta),))


def pair(chosen: str, rejected: str, prompt: str = "Hi") -> Group:
    answers = tuple(
        Response((Message("assistant", text),), rank=rank)
        for text, rank in ((chosen, 1.0), (rejected, 2.0))
    )
    return Group(Prompt("p", messages(prompt), source=Source("f.jsonl", 7)), answers)


def whole_text(tokenizer: Any, group: TokenGroup, k: int = 0) -> str:
    return str(tokenizer.decode([*group.prompt_ids, *group.responses[k].ids]))


def trained_text(tokenizer: Any, group: TokenGroup, k: int = 0) -> list[str]:
    """The stretches with mask True."""
    out: list[list[int]] = []
    before = False
    for token, counted in zip(group.responses[k].ids, group.responses[k].mask, strict=True):
        if counted and not before:
            out.append([])
        if counted:
            out[-1].append(token)
        before = counted
    return [str(tokenizer.decode(ids)) for ids in out]


def test_single_turn_is_the_templates_text_up_to_the_end_of_turn(chat) -> None:
    group = Encoder(chat, max_length=200).encode_demonstration(demo("Hi", "Hello"))
    written = chat.apply_chat_template(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        tokenize=False,
    )
    assert whole_text(chat, group) == written.rstrip("\n")
    assert trained_text(chat, group) == ["Hello<|im_end|>"]
    assert all(group.responses[0].mask)


def test_multi_turn_trains_on_assistant_turns_and_their_ends_only(chat) -> None:
    group = Encoder(chat, max_length=300).encode_demonstration(demo("Hi", "Hello", "And?", "Bye"))
    assert chat.decode(group.prompt_ids).endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    assert trained_text(chat, group) == ["Hello<|im_end|>", "Bye<|im_end|>"]
    assert "And?" in whole_text(chat, group)


def test_train_on_last_moves_the_prompt(chat) -> None:
    encoder = Encoder(chat, max_length=300, train_on="last")
    group = encoder.encode_demonstration(demo("Hi", "Hello", "And?", "Bye"))
    assert "Hello" in chat.decode(group.prompt_ids)
    assert trained_text(chat, group) == ["Bye<|im_end|>"]


def test_train_on_last_in_a_pair_masks_the_earlier_answers(chat) -> None:
    """Conversations that part early: the shared prompt stays, only each last answer counts."""
    base = pair("x", "y")
    answers = tuple(
        replace(r, messages=messages("", first, "And?", last)[1:])
        for r, first, last in zip(base.responses, ("x", "y"), ("good", "bad"), strict=True)
    )
    group = replace(base, responses=answers)
    encoded = Encoder(chat, max_length=300, train_on="last").encode_group(group)
    assert trained_text(chat, encoded, 0) == ["good<|im_end|>"]
    assert trained_text(chat, encoded, 1) == ["bad<|im_end|>"]
    both = Encoder(chat, max_length=300).encode_group(group)
    assert trained_text(chat, both, 0) == ["x<|im_end|>", "good<|im_end|>"]


def test_tool_turns_are_context(chat) -> None:
    said = (
        Message("assistant", "call"),
        Message("tool", "42"),
        Message("assistant", "It is 42"),
    )
    group = Group(Prompt("d", messages("Hi")), (Response(said),))
    encoded = Encoder(chat, max_length=300).encode_demonstration(group)
    assert trained_text(chat, encoded) == ["call<|im_end|>", "It is 42<|im_end|>"]


def test_turns_switched_off_are_not_trained(chat) -> None:
    encoder = Encoder(chat, max_length=300)
    group = demo("Hi", "Hello", "And?", "Bye", train=(False, True, True))
    assert trained_text(chat, encoder.encode_demonstration(group)) == ["Bye<|im_end|>"]
    off = demo("Hi", "Hello", train=(False,))
    with pytest.raises(DataError, match="nothing to train on"):
        encoder.encode_demonstration(off)


def test_generation_marks_give_transformers_own_mask() -> None:
    """Against apply_chat_template's assistant mask, with the turn's end inside the marks."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    group = demo("Hi", "Hello", "And?", "Bye")
    encoded = Encoder(tokenizer, max_length=300).encode_demonstration(group)
    said = [*group.prompt.messages, *group.responses[0].messages]
    oracle = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in said],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ours = [0] * len(encoded.prompt_ids) + [int(m) for m in encoded.responses[0].mask]
    length = len(ours)
    assert [*encoded.prompt_ids, *encoded.responses[0].ids] == oracle["input_ids"][:length]
    assert ours == oracle["assistant_masks"][:length]
    assert sum(oracle["assistant_masks"][length:]) == 0


def test_generation_marks_without_the_end_of_turn_get_it() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ '\n' + m['content'] }}"
        "{% endgeneration %}{% else %}{{ '\n' + m['content'] }}{% endif %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    encoded = Encoder(tokenizer, max_length=300).encode_demonstration(demo("a", "b", "c", "d"))
    # the header's line break is inside the marks too, but a rollout is given it
    assert trained_text(tokenizer, encoded) == ["b<|im_end|>", "d<|im_end|>"]


def test_prompt_tokens_are_shared_and_the_same_as_in_rollouts(chat) -> None:
    encoder = Encoder(chat, max_length=300)
    group = pair("yes", "no")
    encoded = encoder.encode_group(group)
    assert list(encoded.prompt_ids) == encoder.encode_prompt(group.prompt)
    assert [trained_text(chat, encoded, k) for k in (0, 1)] == [
        ["yes<|im_end|>"],
        ["no<|im_end|>"],
    ]
    assert encoded.comparisons == (Comparison(0, 1),)
    assert [r.scalar for r in encoded.responses] == [{"rank": 1.0}, {"rank": 2.0}]
    assert encoded.source == Source("f.jsonl", 7)


def test_bos_comes_once() -> None:
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = "{{ bos_token }}" + CHAT
    own = Encoder(tokenizer, max_length=300).encode_demonstration(demo("Hi", "Hello"))
    built_in = Encoder(tokenizer, max_length=300, template="chatml")
    text = Group(Prompt("t", text="2+2="), (Response(messages("", "4")[1:]),))
    bos = tokenizer.bos_token_id
    groups = (
        own,
        built_in.encode_demonstration(demo("Hi", "Hello")),
        built_in.encode_group(text),
        built_in.encode_document("Once")[0],
    )
    for group in groups:
        ids = [*group.prompt_ids, *group.responses[0].ids]
        assert ids[0] == bos
        assert ids.count(bos) == 1
    assert list(own.prompt_ids) == list(groups[1].prompt_ids)


def test_eos_is_trained_although_pad_is_the_same_token(chat) -> None:
    assert chat.pad_token_id == chat.eos_token_id
    encoded = Encoder(chat, max_length=300).encode_group(pair("yes", "no"))
    for response in encoded.responses:
        assert response.ids[-1] == chat.eos_token_id
        assert response.mask[-1]


def test_a_template_that_does_not_end_turns_gets_eos() -> None:
    tokenizer = byte_tokenizer(eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    encoded = Encoder(tokenizer, max_length=300).encode_demonstration(demo("Hi", "Hello"))
    assert trained_text(tokenizer, encoded) == ["Hello</s>"]


def test_stop_ids_hold_eos_and_the_templates_end_of_turn() -> None:
    tokenizer = byte_tokenizer(eos_token="</s>")
    tokenizer.chat_template = CHAT.replace("<|im_end|>", "<|eot|>")
    encoder = Encoder(tokenizer, max_length=300)
    ids = tokenizer.convert_tokens_to_ids(["</s>", "<|eot|>"])
    assert list(encoder.stop_ids) == ids
    encoded = encoder.encode_demonstration(demo("Hi", "Hello"))
    assert trained_text(tokenizer, encoded) == ["Hello<|eot|>"]


@pytest.mark.parametrize(
    ("template", "prompt", "trained"),
    [
        ("plain", "user: Hi\nassistant:", [" Hello</s>", " Bye</s>"]),
        ("raw", "Hi", ["Hello</s>", "Bye</s>"]),
        (
            "chatml",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            ["Hello<|im_end|>", "Bye<|im_end|>"],
        ),
    ],
)
def test_built_in_templates(template, prompt, trained) -> None:
    tokenizer = byte_tokenizer(eos_token="</s>")
    encoder = Encoder(tokenizer, max_length=300, template=template)
    encoded = encoder.encode_demonstration(demo("Hi", "Hello", "And?", "Bye"))
    assert tokenizer.decode(encoded.prompt_ids) == prompt
    assert trained_text(tokenizer, encoded) == trained


def test_no_template_is_an_error_with_a_cure_unless_prompts_are_text() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.chat_template is None
    encoder = Encoder(tokenizer, max_length=100)
    with pytest.raises(DataError, match=r"no chat template.*chatml, plain, raw"):
        encoder.encode_group(pair("yes", "no"))
    with pytest.raises(DataError, match="no chat template"):
        encoder.encode_all([pair("yes", "no")])
    text = Group(Prompt("t", text="2+2="), (Response(messages("", " 4")[1:]),))
    encoded = encoder.encode_demonstration(text)
    assert tokenizer.decode(encoded.prompt_ids) == "2+2="
    assert trained_text(tokenizer, encoded) == [" 4<|im_end|>"]


def test_bad_templates_are_refused(chat) -> None:
    with pytest.raises(DataError, match="unknown chat template 'chatlm'"):
        Encoder(chat, max_length=100, template="chatlm")
    with pytest.raises(DataError, match="leaves out what the assistant says"):
        Encoder(chat, max_length=100, template="{{ messages[0]['content'] }}")
    odd = CHAT.replace("'<|im_start|>assistant\n'", "'<|im_start|>model\n'")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = odd  # its own: plain text still works, conversations do not
    own = Encoder(tokenizer, max_length=100)
    assert own.stop_ids == (tokenizer.eos_token_id,)
    assert own.encode_prompt(Prompt("t", text="Hi"))
    assert tokenizer.decode(own.encode_prompt(Prompt("t", messages("Hi")))).endswith("model\n")
    with pytest.raises(DataError, match="does not begin an answered conversation"):
        own.encode_group(pair("yes", "no"))
    with pytest.raises(DataError, match="no EOS"):
        Encoder(PreTrainedTokenizerFast(tokenizer_object=chat.backend_tokenizer), max_length=9)


def test_a_template_that_rewrites_history_is_found_out(chat) -> None:
    """Like Qwen 3's: earlier answers lose something once a later turn is there."""
    rewriting = CHAT.replace(
        "m['content'] + '",
        "(m['content'] if loop.last or m['role'] == 'user' else m['content'] | upper) + '",
    )
    encoder = Encoder(chat, max_length=300, template=rewriting)
    good = demo("HI", "Hello")
    encoder.encode_demonstration(good)
    turned = demo("HI", "Hello", "AND?", "Bye")
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encoder.encode_demonstration(turned)
    done, skipped = encoder.encode_all([good, turned], "demonstrations")
    assert len(done) == len(skipped) == 1
    last = Encoder(chat, max_length=300, template=rewriting, train_on="last")
    assert trained_text(chat, last.encode_demonstration(turned)) == ["Bye<|im_end|>"]


def test_an_eos_after_the_whole_conversation_is_not_part_of_a_turn() -> None:
    """Like Phi-3's template, which closes every conversation that awaits no answer."""
    tokenizer = byte_tokenizer(eos_token="</s>")
    tokenizer.chat_template = CHAT.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")
    encoded = Encoder(tokenizer, max_length=300).encode_demonstration(demo("a", "b", "c", "d"))
    assert trained_text(tokenizer, encoded) == ["b<|im_end|>", "d<|im_end|>"]
    assert "</s>" not in whole_text(tokenizer, encoded)


def test_a_template_that_refuses_a_role_skips_the_row(chat) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    encoder = Encoder(chat, max_length=300, template=strict + CHAT)
    with_system = replace(
        demo("Hi", "Hello"),
        prompt=Prompt("s", (Message("system", "x"), *messages("Hi")), source=Source("f", 3)),
    )
    done, skipped = encoder.encode_all([demo("Hi", "Hello"), with_system], "demonstrations")
    assert len(done) == 1
    assert "no system" in skipped[0].reason
    assert skipped[0].source == Source("f", 3)


def test_trl_templates_of_real_families(chat) -> None:
    """Real templates: the text is the template's own, and only what the assistant says counts."""
    trl = pytest.importorskip("trl")
    folder = Path(trl.__file__).parent / "chat_templates"
    group = demo("Hi", "Hello you", "Again?", "Yes again.")
    for name in ("llama3", "llama3_training", "gemma", "qwen2_5", "qwen2_5_training", "phi3"):
        encoder = Encoder(chat, max_length=2000, template=str(folder / f"{name}.jinja"))
        encoded = encoder.encode_demonstration(group)
        first, second = trained_text(chat, encoded)
        assert first.startswith("Hello you<")
        assert second.startswith("Yes again.<")
        assert "Again?" in whole_text(chat, encoded)
    marked = Encoder(
        chat, max_length=2000, template=str(folder / "qwen2_5_training.jinja")
    ).encode_demonstration(group)
    grown = Encoder(
        chat, max_length=2000, template=str(folder / "qwen2_5.jinja")
    ).encode_demonstration(group)
    assert marked.responses[0].ids == grown.responses[0].ids
    assert marked.responses[0].mask == grown.responses[0].mask


# --- windows ------------------------------------------------------------------------------------


def text_pair(prompt: str, chosen: str, rejected: str) -> Group:
    return replace(pair(chosen, rejected), prompt=Prompt("t", text=prompt, source=Source("f", 1)))


def test_window_edges(chat) -> None:
    group = text_pair("pppp", "cccc", "rrr")  # 4 prompt tokens, 5 and 4 with EOS
    assert Encoder(chat, max_length=9).encode_group(group).num_tokens() == 13
    with pytest.raises(DataError, match=r"f, row 1: prompt and response are longer than 8"):
        Encoder(chat, max_length=8).encode_group(group)
    with pytest.raises(DataError, match=r"the prompt is longer than 3 tokens.*max_prompt_length"):
        Encoder(chat, max_length=50, max_prompt_length=3).encode_group(group)
    with pytest.raises(DataError, match="the prompt is longer than 3"):
        Encoder(chat, max_length=4).encode_prompt(group.prompt)


def test_left_cuts_the_prompt_alike_for_both(chat) -> None:
    encoded = Encoder(chat, max_length=7, truncation="left").encode_group(
        text_pair("abcd", "cccc", "rrr")
    )
    assert chat.decode(encoded.prompt_ids) == "cd"
    assert [trained_text(chat, encoded, k) for k in (0, 1)] == [
        ["cccc<|im_end|>"],
        ["rrr<|im_end|>"],
    ]
    tokenizer = byte_tokenizer(bos=True)
    cut = Encoder(tokenizer, max_length=7, truncation="left").encode_group(
        text_pair("abcd", "cccc", "rrr")
    )
    assert tokenizer.decode(cut.prompt_ids) == "<s>d"


def test_right_cuts_the_responses_and_their_eos(chat) -> None:
    encoded = Encoder(chat, max_length=6, truncation="right").encode_group(
        text_pair("pppp", "cccc", "r")
    )
    assert trained_text(chat, encoded, 0) == ["cc"]
    assert trained_text(chat, encoded, 1) == ["r<|im_end|>"]


def test_pairs_cut_to_the_same_text_are_skipped(chat) -> None:
    encoder = Encoder(chat, max_length=7, truncation="right")
    same = text_pair("pppp", "the same start", "the same end")
    done, skipped = encoder.encode_all([same, text_pair("pppp", "yes", "no")])
    assert len(done) == 1
    assert "same tokens" in skipped[0].reason
    assert skipped[0].cure
    with pytest.raises(DataError, match="none of 1 groups"):
        encoder.encode_all([same])


# --- ranks, labels, text ------------------------------------------------------------------------


def test_ranks_imply_comparisons_and_comparisons_imply_ranks(chat) -> None:
    encoder = Encoder(chat, max_length=100)
    answers = tuple(Response((Message("assistant", t),), rank=r) for t, r in zip("abc", (2, 1, 2)))  # noqa: B905
    ranked = encoder.encode_group(Group(Prompt("r", messages("Hi")), answers))
    assert {(c.better, c.worse, c.tie) for c in ranked.comparisons} == {
        (1, 0, False),
        (0, 2, True),
        (1, 2, False),
    }
    bare = tuple(replace(a, rank=None) for a in answers)
    judged = Group(Prompt("r", messages("Hi")), bare, (Comparison(2, 0), Comparison(2, 1)))
    assert [r.scalar["rank"] for r in encoder.encode_group(judged).responses] == [2, 2, 1]
    rollout = encoder.encode_group(Group(Prompt("r", messages("Hi")), bare))
    assert all(r.scalar == {} for r in rollout.responses)


def test_labels_become_scalars(chat) -> None:
    for label in (True, False):
        encoded = Encoder(chat, max_length=100).encode_group(demo("Hi", "Yo", label=label))
        assert encoded.responses[0].scalar == {"label": float(label)}


def test_text_windows_predict_every_token_once(chat) -> None:
    encoder = Encoder(chat, max_length=5)
    ids = [*chat("abcdefghij").input_ids, chat.eos_token_id]
    windows = encoder.encode_document("abcdefghij", "doc")
    assert [i for w in windows for i in w.responses[0].ids] == ids[1:]
    assert all(w.num_tokens() <= 5 for w in windows)
    context = [w.prompt_ids[0] for w in windows]
    assert context == [ids[0], *(w.responses[0].ids[-1] for w in windows[:-1])]
    whole = Encoder(chat, max_length=50).encode_document("abc")[0]
    assert trained_text(chat, whole) == ["bc<|im_end|>"]
    document = Group(Prompt("doc", text=""), (Response((Message("assistant", "abc"),)),))
    done, _skipped = Encoder(chat, max_length=50).encode_all([document], "text")
    assert list(done[0].responses[0].ids) == list(whole.responses[0].ids)
    same = Encoder(chat, max_length=50).encode_demonstration(document)
    assert list(same.prompt_ids) == list(whole.prompt_ids)


TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=20
).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(TEXT, min_size=2, max_size=7))
def test_masks_cover_exactly_the_assistants_words(chat, contents) -> None:
    """Whatever is said: the trained stretches are the assistant's turns, each with its end."""
    contents = contents[: len(contents) // 2 * 2]
    encoded = Encoder(chat, max_length=5000).encode_demonstration(demo(*contents))
    assert trained_text(chat, encoded) == [c + "<|im_end|>" for c in contents[1::2]]
    written = "".join(
        f"<|im_start|>{role}\n{content}<|im_end|>\n"
        for role, content in zip(("user", "assistant") * len(contents), contents, strict=False)
    )
    assert whole_text(chat, encoded) == written[:-1]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
def test_many_at_once_gives_the_same_as_one_by_one(chat, pairs) -> None:
    encoder = Encoder(chat, max_length=2000)
    groups = [pair(a, a + b, prompt=b) for a, b in pairs]
    done, skipped = encoder.encode_all(groups)
    assert skipped == []
    assert done == [encoder.encode_group(g) for g in groups]


def test_encoder_fingerprint_follows_template_and_window(chat) -> None:
    prints = {
        Encoder(chat, max_length=10).fingerprint,
        Encoder(chat, max_length=11).fingerprint,
        Encoder(chat, max_length=10, template="plain").fingerprint,
        Encoder(chat, max_length=10, train_on="last").fingerprint,
    }
    assert len(prints) == 4
    used = Encoder(chat, max_length=10)
    chat(["a", "bb"], padding=True, truncation=True, max_length=3)
    assert used.fingerprint == Encoder(chat, max_length=10).fingerprint
