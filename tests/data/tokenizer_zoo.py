"""Small tokenizers of every kind, and chat templates that behave as real families' do."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_python import PreTrainedTokenizer

SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<eot>"]
CORPUS = [
    "Hello there, how are you today?",
    "Paris is the capital of France. Name a colour. Blue. Red.",
    "[INST] What is the capital of France? [/INST] Paris </s>",
    "<|user|>\nHello</s>\n<|assistant|>\nHello world</s>\n\n\n",
    "user: Question: What?\nassistant: Answer: Paris.\n",
    "1 2 3 + - * / = ( ) [ ] { } < > | . , : ; ! ?\n",
] * 20
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def _wrap(core: Tokenizer, bos: bool = True) -> PreTrainedTokenizerFast:
    if bos:
        first = ("<s>", core.token_to_id("<s>"))
        core.post_processor = processors.TemplateProcessing("<s> $A", None, [first])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<eot>"],
        **names,
    )


def _metaspace(scheme: str, split: bool = True) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*SPECIAL, *BYTES])
    core.train_from_iterator(CORPUS, trainer)
    return _wrap(core)


def _prepend() -> PreTrainedTokenizerFast:
    """Llama 2's: a normaliser writes the "▁" before every piece of text."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*SPECIAL, *BYTES], max_token_length=8
    )
    core.train_from_iterator(CORPUS, trainer)
    return _wrap(core)


def _byte_level(add_prefix_space: bool) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    return _wrap(core, bos=False)


def _unigram() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>")
    core.train_from_iterator(CORPUS, trainer)
    return _wrap(core)


def _wordpiece() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL)
    )
    return _wrap(core)


MAKERS = {
    "first": lambda: _metaspace("first"),
    "always": lambda: _metaspace("always"),
    "never": lambda: _metaspace("never"),
    "unsplit": lambda: _metaspace("first", split=False),
    "prepend": _prepend,
    "bytes": lambda: _byte_level(False),
    "bytes-prefix": lambda: _byte_level(True),
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}


@lru_cache
def _made(kind: str) -> Any:
    return MAKERS[kind]()


def tokenizer(kind: str, template: str | None = None) -> Any:
    """A tokenizer of a kind in ``MAKERS``, with a template of ``TEMPLATES`` or of one's own."""
    made = _made(kind)
    made.chat_template = TEMPLATES.get(template, template) if template else None
    return made


class Letters(PreTrainedTokenizer):
    """A slow tokenizer: a token a letter, or a pair of equal letters; it gives no offsets."""

    def __init__(self, pairs: bool = True, **known: Any) -> None:
        self.pairs = pairs
        self.pieces = [chr(i) for i in range(9, 127)] + [chr(i) * 2 for i in range(9, 127)]
        super().__init__(eos_token="</s>", unk_token="<unk>", **known)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def get_vocab(self) -> dict[str, int]:
        return {**{p: i for i, p in enumerate(self.pieces)}, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        out: list[str] = []
        for letter in text:
            if self.pairs and out and out[-1] == letter:
                out[-1] += letter
            else:
                out.append(letter)
        return out

    def _convert_token_to_id(self, token: str) -> int:
        return self.pieces.index(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.pieces[index]


def _chat(body: str, cue: str = "") -> str:
    loop = "{{ bos_token }}{% for m in messages %}" + body + "{% endfor %}"
    return loop + ("{% if add_generation_prompt %}" + cue + "{% endif %}" if cue else "")


def _turn(before: str, said: str, other: str, after: str = "") -> str:
    """One turn: the assistant's words (marked) between ``before`` and ``after``, or another's."""
    marked = "{% generation %}{{ " + said + " }}{% endgeneration %}"
    return (
        "{% if m.role == 'assistant' %}" + before + marked + after + "{% else %}"
        "{{ " + other + " }}{% endif %}"
    )


IM = "'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'"
MARKED = {
    "chatml": _chat(
        _turn("{{ '<|im_start|>assistant\n' }}", "m.content + '<|im_end|>'", IM, "{{ '\n' }}"),
        "{{ '<|im_start|>assistant\n' }}",
    ),
    "llama2": _chat(
        _turn("", "' ' + m.content + ' ' + eos_token", "'[INST] ' + m.content + ' [/INST]'")
    ),
    "zephyr": _chat(
        _turn(
            "{{ '<|assistant|>\n' }}",
            "m.content + eos_token",
            "'<|' + m.role + '|>\n' + m.content + eos_token + '\n'",
            "{{ '\n' }}",
        ),
        "{{ '<|assistant|>\n' }}",
    ),
    "glued": _chat(
        _turn("{{ '<eot>' }}", "m.content + '<|im_end|>'", "m.content"), "{{ '<eot>' }}"
    ),
    "words": _chat(
        _turn(
            "{{ 'assistant:' }}",
            "' ' + m.content + eos_token",
            "m.role + ': ' + m.content + '\n'",
            "{{ '\n' }}",
        ),
        "{{ 'assistant:' }}",
    ),
}
"""Marked with {% generation %}, which gives transformers' own mask."""
TEMPLATES = {
    name: text.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    for name, text in MARKED.items()
}
"""The same text, without marks."""
EOT = {
    "chatml": "<|im_end|>",
    "llama2": "</s>",
    "zephyr": "</s>",
    "glued": "<|im_end|>",
    "words": "</s>",
}
