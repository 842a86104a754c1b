"""The tunnel's tokenizer: one token per known word, letter or number below 100, bytes for the rest.

It is an ordinary byte-level BPE without merges: a chunk of text that is in the vocabulary is one
token, any other chunk falls back to its bytes. So every text encodes, and decodes to itself.
"""

from __future__ import annotations

import re
import string
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gnomon.tasks.tunnel import lexicon as lex
from gnomon.tasks.tunnel.world import FACTS, WORDINGS

PAD, BOS, EOS, END = "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>"
SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
SPECIALS: tuple[str, ...] = (PAD, BOS, EOS, END, SYSTEM, USER, ASSISTANT, TOOL)
CONTEXT = 256

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
    "{{- raise_exception('unknown role ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""Assistant turns end with EOS (and are marked for training), all other turns with <|end|>."""

_CHUNK = r" ?\d{1,2}| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s"


def world_words() -> list[str]:
    """The words that are one token each, sorted."""
    texts = [w for wordings in WORDINGS.values() for w in wordings]
    texts += [sentence for _, sentence in FACTS.values()]
    texts += [w for table, _ in FACTS.values() for pair in table.items() for w in pair]
    texts += [*lex.OPENERS, *lex.CLOSERS, *lex.FILLERS, *lex.FLATTERY, *lex.REFUSALS]
    texts += [*lex.WORDS, *lex.NAMES, *lex.GREETINGS.values()]
    texts += ["The answer is. It is. I think it is. plus minus times is The bigger biggest"]
    texts += ["backwards capitals order spelling number numbers letters sum last first in of and"]
    return sorted({w for text in texts for w in re.findall("[A-Za-z]+", text)})


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return dict(sorted(letters.items()))


def vocabulary() -> dict[str, int]:
    """Token to id: special tokens, the 256 bytes, letters after a space, numbers, words."""
    space = _byte_letters()[32]
    tokens = [*SPECIALS, *_byte_letters().values()]
    tokens += [space + c for c in string.ascii_letters + "?+-=,."]
    tokens += [gap + str(number) for number in range(100) for gap in ("", space)]
    for word in world_words():
        tokens += [word, space + word]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer from the world's lexicon (deterministic; 5 ms)."""
    core = Tokenizer(models.BPE(vocab=vocabulary(), merges=[], ignore_merges=True))
    chunks = pre_tokenizers.Split(Regex(_CHUNK), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [chunks, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    settings: dict[str, Any] = {
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "additional_special_tokens": [END, SYSTEM, USER, ASSISTANT, TOOL],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **settings)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
