"""gnomon's engine as a model of lm-eval (EleutherAI's Language Model Evaluation Harness).

lm-eval makes the requests (prompts, choices, stop strings) and the scores; the log-probs and the
texts are of this model. Shots that questions share, and the questions that choices share, are
computed once (:mod:`gnomon.models.continuations`); texts are sampled by the rollout engine. What
lm-eval's own ``hf`` model does to texts (BOS, spaces, truncation from the left, the first token of
an empty context) is done in the same way, so the scores are the same.

Answers are kept by the hash of their request as soon as they are known: a killed eval continues
with the requests that have none.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM, hash_args
from lm_eval.models.utils import (
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from transformers import PreTrainedTokenizerBase

from gnomon.errors import ConfigError, DataError
from gnomon.evals.rows import Rows
from gnomon.models.continuations import PASS_TOKENS, Continuation, Scored, score
from gnomon.models.roles import Role
from gnomon.plugins import did_you_mean
from gnomon.rollout.protocol import Engine, Request, SamplingParams

GENERATED_TOGETHER = 64
"""Requests that the engine gets at once, and whose texts are kept at once."""
_SAMPLING = ("until", "do_sample", "temperature", "top_p", "top_k", "min_p", "max_gen_toks")
_WITHOUT_EFFECT = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}
"""Settings that some tasks give, and that change nothing at these values."""

Encoded = tuple[str, list[int], list[int]]
"""A request as tokens: its key, context, continuation."""
Place = tuple[Any, Any]
"""The task and the document that a request is of."""


@dataclass
class Account:
    """What happened to requests, by (task, document).

    Attributes:
        failed: the reason why a request has no answer.
        cut: tokens that were left out at a text's beginning, because it did not fit the model.
        tokens: tokens that were scored or sampled (not the prompts').
    """

    failed: dict[Place, str] = field(default_factory=dict)
    cut: dict[Place, int] = field(default_factory=dict)
    tokens: int = 0


class EngineLM(TemplateLM):  # type: ignore[misc]
    """A causal language model through the packed forward and a rollout engine.

    Args:
        role: the model.
        engine: samples from the same weights.
        answers: kept answers, by request; those that are there are not asked again.
        max_length: most tokens of a text; the model's own by default.
        pass_tokens: packed tokens of one forward pass.
        seed: of sampled texts.
        watch: called with (requests done, all requests); what it raises stops the eval.
    """

    def __init__(
        self,
        role: Role,
        engine: Engine,
        answers: Rows,
        *,
        max_length: int | None = None,
        pass_tokens: int = PASS_TOKENS,
        seed: int = 0,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer: PreTrainedTokenizerBase = role.trunk.tokenizer
        self.account = Account()
        self._role, self._engine, self._answers = role, engine, answers
        config = role.trunk.model.config
        self.max_length = int(max_length or resolve_max_length(config, self.tokenizer))
        self._pass_tokens, self._seed = pass_tokens, seed
        self._watch = watch
        self._gemma = "gemma" in getattr(config, "model_type", "")
        self._encode = lru_cache(maxsize=4096)(self._encoded)

    # -- texts and tokens, as lm-eval's hf model has them ------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        return list(self._encode(string, add_special_tokens))

    def _encoded(self, string: str, special: bool | None) -> tuple[int, ...]:
        options = {} if special is None else {"add_special_tokens": special}
        if special is None and self._gemma:
            options = {"add_special_tokens": True}
        bos = self.tokenizer.decode(self.prefix_token_id)
        if special is None and has_bos_prefix(string, bos):
            options = {"add_special_tokens": False}
        return tuple(self.tokenizer.encode(string, **options))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as one text, by the tokenizer's template.

        Raises:
            ConfigError: it has none, or it refuses the conversation.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        except Exception as error:  # a template raises whatever it likes
            roles = ", ".join(turn["role"] for turn in chat_history)
            raise ConfigError(
                f"the tokenizer's chat template does not take the turns {roles} ({error}); leave "
                "out `system` (or `chat`)"
            ) from error
        return cast(str, text)

    # -- log-probs ---------------------------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(sum of log-probs in nats, whether each token is the likeliest) of continuations; NaN
        where a continuation has none."""
        asked = self._ask("loglikelihood", requests)
        encoded: list[Encoded] = []
        for key, (context, continuation, *_) in asked.waiting(self._answers):
            try:
                encoded.append((key, *self._pair(context, continuation)))
            except DataError as error:
                for place in asked.places[key]:
                    self.account.failed[place] = str(error)
        self._loglikelihood_tokens(encoded, asked=asked)
        known = [self._answers.get(k) if self._answers.has(k) else None for k in asked.keys]
        return [(r["logprob"], r["greedy"]) if r else (math.nan, False) for r in known]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Context and continuation as tokens, neither empty."""
        if context:
            first, rest = self._encode_pair(context, continuation)
        else:
            first, rest = [], self.tok_encode(continuation, add_special_tokens=False)
        if not first:
            begins = bool(rest) and rest[0] == self.prefix_token_id
            first, rest = (rest[:1], rest[1:]) if begins else ([self.prefix_token_id], rest)
        if not rest:
            raise DataError(
                f"the choice {continuation!r} adds no token to its context, so it has no "
                "probability; check the choices of this item"
            )
        if len(rest) > self.max_length:
            raise DataError(
                f"the choice {continuation[:40]!r}... has {len(rest)} tokens, more than the "
                f"model's {self.max_length}"
            )
        return first, rest

    def _loglikelihood_tokens(
        self, requests: list[Encoded], asked: _Asked | None = None, **unused: Any
    ) -> list[tuple[float, bool]]:
        """Score tokens and keep the answers; ``requests`` are named by their keys."""
        items, cuts = [], []
        for _, context, continuation in requests:
            cut = max(0, len(context) + len(continuation) - self.max_length - 1)
            items.append(Continuation(context[cut:], continuation))
            cuts.append(cut)
        found: list[tuple[float, bool]] = [(math.nan, False)] * len(items)
        for part in self._scored(items):
            rows = []
            for i, scored in part.items():
                found[i] = (scored.logprob, scored.greedy)
                row = {"id": requests[i][0], "logprob": scored.logprob, "greedy": scored.greedy}
                rows.append({**row, "cut": cuts[i], "tokens": len(items[i].tokens)})
            self._keep(rows, asked)
        return found

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Sums of log-probs of whole texts, in windows as wide as the model."""
        asked = self._ask("loglikelihood_rolling", requests)
        for key, (text, *_) in asked.waiting(self._answers):
            ids = self.tok_encode(text)
            windows = utils.get_rolling_token_windows(
                token_list=ids,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = map(utils.make_disjoint_window, windows)
            items = [Continuation(context, tokens) for context, tokens in pairs]
            total = sum(one.logprob for part in self._scored(items) for one in part.values())
            self._keep([{"id": key, "logprob": total, "cut": 0, "tokens": len(ids)}], asked)
        return [float(self._answers.get(key)["logprob"]) for key in asked.keys]

    def _scored(self, items: Sequence[Continuation]) -> Iterator[Mapping[int, Scored]]:
        trunk = self._role.trunk
        packed = trunk.packed  # made, and tried out, before the role's own settings
        with trunk.running(self._role.adapter):
            yield from score(packed, items, self._pass_tokens)

    # -- texts -------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Texts that end before the first of their stop strings."""
        asked = self._ask("generate_until", requests)
        alike: dict[str, list[tuple[str, str]]] = {}
        settings: dict[str, Mapping[str, Any]] = {}
        for key, (prompt, given, *_) in asked.waiting(self._answers):
            name = repr(sorted(given.items()))
            alike.setdefault(name, []).append((key, prompt))
            settings[name] = given
        for name, prompts in alike.items():
            params = self._sampling(settings[name])
            for first in range(0, len(prompts), GENERATED_TOGETHER):
                self._generate(prompts[first : first + GENERATED_TOGETHER], params, asked)
        return [str(self._answers.get(key)["text"]) for key in asked.keys]

    def _generate(
        self, prompts: Sequence[tuple[str, str]], params: SamplingParams, asked: _Asked
    ) -> None:
        room = self.max_length - params.max_new_tokens
        requests, cuts = [], []
        for key, prompt in prompts:
            ids = self.tok_encode(prompt) or [self.prefix_token_id]
            cuts.append(max(0, len(ids) - room))
            seed = self._seed + zlib.crc32(key.encode())
            requests.append(Request(key, ids[cuts[-1] :], seed=seed))
        drawn = self._engine.generate(requests, params)
        rows = []
        for request, cut, (completion,) in zip(requests, cuts, drawn, strict=True):
            text = postprocess_generated_text(completion.text, list(params.stop), None)
            row = {"id": request.id, "text": text, "finished": completion.finished}
            rows.append({**row, "cut": cut, "tokens": len(completion.ids)})
        self._keep(rows, asked)

    def _sampling(self, given: Mapping[str, Any]) -> SamplingParams:
        """lm-eval's settings as the engine's.

        Raises:
            ConfigError: a setting that the engine does not have, or no room for a prompt.
        """
        options = dict(normalize_gen_kwargs(dict(given), 256))
        for name, value in options.items():
            if name not in _SAMPLING and _WITHOUT_EFFECT.get(name, options) != value:
                raise ConfigError(
                    f"the engine has no generation setting {name} ({value!r}), which the task "
                    f"asks for; {did_you_mean(name, _SAMPLING)}"
                )
        most = int(options["max_gen_toks"])
        if most >= self.max_length:
            raise ConfigError(
                f"the task asks for {most} new tokens, and the model holds {self.max_length} "
                "with the prompt; give fewer with generation: {max_gen_toks: N}"
            )
        return SamplingParams(
            max_new_tokens=most,
            temperature=float(options["temperature"]) if options["do_sample"] else 0.0,
            top_p=float(options.get("top_p") or 1.0),
            top_k=int(options.get("top_k") or 0),
            min_p=float(options.get("min_p") or 0.0),
            stop=tuple(text for text in options["until"] if text),
        )

    # -- what is kept ------------------------------------------------------------------------------

    def _ask(self, kind: str, requests: Sequence[Instance]) -> _Asked:
        asked = _Asked(kind, requests)
        for key in asked.places:
            if self._answers.has(key):
                self._note(asked, self._answers.get(key))
        self._report(asked)
        return asked

    def _keep(self, rows: Sequence[Mapping[str, Any]], asked: _Asked | None) -> None:
        self._answers.add(rows)
        if asked is not None:
            for row in rows:
                self._note(asked, row)
            self._report(asked)

    def _note(self, asked: _Asked, row: Mapping[str, Any]) -> None:
        asked.done += 1
        self.account.tokens += int(row["tokens"])
        for place in asked.places[str(row["id"])] if row["cut"] else ():
            self.account.cut[place] = max(self.account.cut.get(place, 0), int(row["cut"]))

    def _report(self, asked: _Asked) -> None:
        if self._watch is not None:
            self._watch(asked.done, len(asked.places))


class _Asked:
    """The requests of one call, by the hash of what they ask: equal ones are asked once.

    A document's repeated draws of a text are different requests.

    Attributes:
        keys: of each request, in order.
        places: the (task, document) pairs that a key is of.
        done: keys that are answered.
    """

    def __init__(self, kind: str, requests: Sequence[Instance]) -> None:
        self.done = 0
        self.keys: list[str] = []
        self.places: dict[str, set[Place]] = {}
        self._args: dict[str, tuple[Any, ...]] = {}
        drawn: Counter[tuple[str, Place]] = Counter()
        for request in requests:
            key, place = hash_args(kind, request.args), (request.task_name, request.doc_id)
            if kind == "generate_until" and request.args[1].get("do_sample"):
                drawn[key, place] += 1
                key = f"{key}-{drawn[key, place]}"
            self.keys.append(key)
            self.places.setdefault(key, set()).add(place)
            self._args[key] = request.args

    def waiting(self, answers: Rows) -> list[tuple[str, tuple[Any, ...]]]:
        """Keys without an answer, with what they ask."""
        return [(key, args) for key, args in self._args.items() if not answers.has(key)]
