"""The parts for a loop of one's own: read, load, sample, judge, pack (and ``gnomon.losses``).

    model = gnomon.load("tunnel", roles=("policy", "reference"))
    prompts = gnomon.read("questions.jsonl", kind="prompts")
    groups = gnomon.sample(model, prompts, samples=8)                 # who writes the responses?
    groups = gnomon.judge("maths", groups, field="answer")            # how good are they?
    for batch in gnomon.pack(groups, model):                          # groups as tensors
        logprobs_R = model.policy.logprobs(batch).logprobs

All of them speak of groups (:class:`gnomon.records.Group`): a prompt and K responses. Shapes are by
letters: N packed tokens, R response tokens, S responses, G groups, C comparisons, V vocabulary.
``docs/parts.md`` shows whole loops; ``examples/grpo.py`` is one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from gnomon.api.inputs import from_table, refuse_not_finite
from gnomon.api.loading import Model as Model
from gnomon.api.loading import load as load
from gnomon.data.batch import Batch, microbatches
from gnomon.data.batch import pack as packed
from gnomon.data.readers import read_groups
from gnomon.data.rows import IN_MEMORY
from gnomon.data.values import summarise_skipped, without_missing
from gnomon.errors import ConfigError, DataError
from gnomon.judges.build import BUILTIN as JUDGES
from gnomon.judges.build import one_judge
from gnomon.judges.columns import ColumnReward, takes_columns
from gnomon.judges.function import FunctionReward, GroupReward, source_version
from gnomon.judges.protocol import Judge, judged
from gnomon.models.save import load_reward_model
from gnomon.plugins import did_you_mean, is_own
from gnomon.recipe.load import validate_as
from gnomon.recipe.schema import DataSpec, RewardSpec
from gnomon.records import Group, Prompt, TokenGroup, TokenResponse
from gnomon.rollout.protocol import Request, SamplingParams, sampled_group
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.tasks.sources import BUILTIN, GENERATED, generated_groups, tunnel_groups

Readable = str | Path | Iterable[Mapping[str, Any]]
Asked = str | Sequence[Mapping[str, str]] | Mapping[str, Any] | Prompt | Group
"""A prompt: a text, a conversation, a row with ``prompt``, or what :func:`read` gave."""


# -- data ------------------------------------------------------------------------------------------


def read(data: Readable, *, kind: str = "auto", **options: Any) -> list[Group]:
    """Read data into groups: a prompt with its responses each.

    >>> gnomon.read([{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}])[0].comparisons
    (Comparison(better=0, worse=1, ...),)

    Args:
        data: a file (.jsonl, .json, .csv, .parquet, ...), a folder of them, a hub id; or rows: a
            list of dicts, a ``datasets.Dataset``, a data frame; or what is made when asked for
            ("tunnel:prompts", with its options). ``docs/data.md`` lists the formats.
        kind: what to read the rows as: "prompts", "demonstrations", "preferences", "rankings",
            "unpaired"; "auto" takes what they are.
        options: of :func:`gnomon.data.readers.read_groups`: ``columns={"prompt": "question"}``,
            ``limit``, ``sample_seed``, ``split``, ``format``, ``as_text``, ``max_skipped``, ...

    Returns:
        Groups in the order of the rows. Rows that cannot be used are left out with a warning.

    Raises:
        DataError: no such file, no known format, or too many rows that cannot be used; names file
            and row, with the cure.
        ConfigError: an unknown option.
    """
    where, _, what = data.partition(":") if isinstance(data, str) else ("", "", "")
    if where in BUILTIN:
        return tunnel_groups(what, options, where)
    if where in GENERATED:
        return generated_groups(where, what, options)
    data = from_table(data)
    if isinstance(data, Mapping) or not isinstance(data, str | Path | Iterable):
        raise DataError(f"data is a {type(data).__name__}; it is a path, or rows: a list of dicts")
    known = signature(read_groups).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"read has no option {option!r}; {did_you_mean(option, known)}")
    asked = {k: v for k, v in options.items() if v is not None}
    if isinstance(options.get("labels"), Mapping):
        asked["labels"] = {str(k): v for k, v in options["labels"].items()}
    validate_as(DataSpec, {"path": "rows", **asked}, "read")
    if not isinstance(data, str | Path):
        given = list(data)
        refuse_not_finite(IN_MEMORY, given)  # the NaN that is left is a data frame's missing text
        data = [without_missing(row) if isinstance(row, Mapping) else row for row in given]
    found = read_groups(data, kind=kind, **options)  # type: ignore[arg-type]
    if found.skipped:
        warnings.warn(f"rows left out: {summarise_skipped(found.skipped)}", stacklevel=2)
    return found.groups


# -- sample ----------------------------------------------------------------------------------------


def sample(
    model: Model,
    prompts: Asked | Iterable[Asked],
    *,
    samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    max_rows: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Group]:
    """Let the policy answer prompts.

    >>> group = gnomon.sample(model, "2 + 2 = ?", samples=4)[0]
    >>> group.responses[0].text, group.responses[0].logprobs      # [T], nats

    Args:
        model: of :func:`load`; its policy samples.
        prompts: groups or prompts (of :func:`read`), rows, conversations or texts; one or many.
            A text is a user's turn.
        samples: K, responses to each prompt.
        max_new_tokens: most tokens of a response, its end included.
        temperature, top_p, top_k, min_p, stop: see :class:`~gnomon.rollout.SamplingParams`.
        seed: the same seed gives the same responses, whatever else is sampled with them.
        max_rows: responses that are written at the same time.
        on_progress: called with (finished, all) responses.

    Returns:
        A group for each prompt. A response has its ``text``; the tokens ``ids`` (T, the end token
        included) with their ``logprobs`` [T], in nats under softmax(logits / temperature) before
        top_p, top_k and min_p; and ``finished``, False where it was cut off.

    Raises:
        DataError: a prompt that does not fit, or prompts that cannot be read.
        ConfigError: sampling parameters that describe no distribution.
    """
    for name, number in (("samples", samples), ("max_new_tokens", max_new_tokens), ("seed", seed)):
        if not isinstance(number, Integral) or isinstance(number, bool):
            raise ConfigError(f"sample: {name} is {number!r}; it is a whole number")
    asked = _asked(prompts)
    policy, encoder = model.policy, model.encoder
    requests = [
        Request(
            prompt.id, encoder.encode_prompt(prompt), samples, seed=(int(seed) * 65_537 + i) % 2**62
        )
        for i, prompt in enumerate(asked)
    ]
    engine = TorchEngine(
        policy.trunk.model,
        policy.trunk.tokenizer,
        activate=lambda: policy.trunk.active(policy.adapter),
        max_rows=max_rows,
        eos_token_ids=encoder.stop_ids,
    )
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    params = SamplingParams(max_new_tokens, temperature, top_p, top_k, min_p, stops)
    written = engine.generate(requests, params, on_progress)
    return [
        sampled_group(prompt, request.prompt_ids, completions, logprobs=True)
        for prompt, request, completions in zip(asked, requests, written, strict=True)
    ]


def _asked(prompts: Asked | Iterable[Asked]) -> list[Prompt]:
    """The prompts, each with an id of its own."""
    one = isinstance(prompts, str | Mapping | Prompt | Group)
    many: list[Any] = [prompts] if one else list(prompts)  # type: ignore[arg-type]
    if many and all(isinstance(item, Mapping) and "role" in item for item in many):
        many = [many]  # a conversation
    if all(isinstance(item, Prompt | Group) for item in many):
        return [item.prompt if isinstance(item, Group) else item for item in many]
    rows = [item if isinstance(item, Mapping) else {"prompt": item} for item in many]
    return [group.prompt for group in read_groups(rows, kind="prompts", max_skipped=0.0).groups]


# -- judge -----------------------------------------------------------------------------------------


def judge(
    by: Judge | Callable[..., Any] | str | Path, groups: Sequence[Group], **options: Any
) -> list[Group]:
    """Let a judge say how good the responses of groups are.

    >>> groups = gnomon.judge(lambda samples: [-len(s.text) for s in samples], groups)
    >>> groups[0].rewards
    [-12.0, -7.0, -9.0, -12.0]

    Args:
        by: a builtin's name ("maths", "exact", "length", "correct", "ai", ...; ``docs/rewards.md``
            lists them), a reward model's folder, ``file.py:name``; a function of samples
            (:class:`~gnomon.judges.protocol.Sample`) or of columns, as TRL's, that gives a number
            for each; an object with ``judge(groups)``; or a judge made once with
            :func:`make_judge`, for a loop.
        options: of a judge by name, such as ``field="answer"``.

    Returns:
        The groups with their ``judgement``: a score for each response, whose ``value`` is None and
        whose ``error`` says why where judging it failed; ``rewards`` are the values. A judge that
        compares sets the groups' ``comparisons``.

    Raises:
        ConfigError: no such judge, or options that it does not take.
        Pending: people have to judge first.
    """
    found = judged(make_judge(by, **options), groups)
    return [
        replace(group, judgement=j, comparisons=j.comparisons or group.comparisons)
        for group, j in zip(groups, found, strict=True)
    ]


def make_judge(by: Judge | Callable[..., Any] | str | Path, **options: Any) -> Judge:
    """The judge that :func:`judge` asks, made once: a reward model is loaded here.

    Raises:
        ConfigError, ModelError: there is none, or it does not take the options.
    """
    if isinstance(by, str | Path):
        name = str(by)
        folder = name not in JUDGES and Path(name).is_dir()
        key = "function" if is_own(name) else "model" if folder else "builtin"
        spec = validate_as(RewardSpec, {key: name, "options": options}, "judge")
        return one_judge(spec, base=Path(), load=load_reward_model, texts=True)
    if options:
        raise ConfigError(f"options ({', '.join(options)}) are of judges by name")
    if Judge in type(by).__mro__:
        return cast(Judge, by)
    called: Any = getattr(by, "__name__", type(by).__name__)
    name = str(getattr(by, "name", called))
    if isinstance(by, type):
        raise ConfigError(f"{name} is a class; give {name}()")
    if hasattr(by, "judge"):
        return GroupReward(by, name, source_version(type(by)))
    if not callable(by):
        raise ConfigError(
            f"{by!r} cannot judge: give a function of samples, an object with judge(groups), the "
            "name of a builtin or the folder of a reward model"
        )
    if takes_columns(by):
        return ColumnReward(by, name, {}, source_version(by))
    return FunctionReward(by, name, source_version(by))


# -- pack ------------------------------------------------------------------------------------------


def pack(
    groups: Sequence[Group | TokenGroup], model: Model, *, max_tokens: int = 4096
) -> list[Batch]:
    """Lay groups end to end as tensors on the model's device, in batches of at most ``max_tokens``.

    >>> for batch in gnomon.pack(groups, model):
    ...     logprobs_R = model.policy.logprobs(batch).logprobs
    ...     reward_S = batch.scalar["reward"]

    A prompt is there once, and all its responses see it. Groups are never split, so group means can
    be taken within a batch. :class:`~gnomon.data.batch.Batch` has the index sets: ``response_of``
    [R], ``group_of`` [S], ``response_mask`` [R], ``pairs`` [C, 2]. Divide a loss by counts of the
    whole step, not of one batch (``losses.reduce.Totals``), or the gradient depends on the split.

    Args:
        groups: of :func:`read` or :func:`sample`. Sampled responses keep the very tokens that the
            policy wrote, with ``batch.token["sampler_logprobs"]`` [R] and
            ``batch.scalar["finished"]`` [S]; others are tokenised with the model's template. Judged
            ones have ``batch.scalar["reward"]`` [S]; responses whose judging failed are left out.
        max_tokens: of one batch; a larger group gets a batch of its own.

    Raises:
        DataError: nothing is left to pack, or a group has no response.
    """
    tokens = [group if isinstance(group, TokenGroup) else _tokens(group, model) for group in groups]
    kept = [group for group in tokens if group is not None and group.responses]
    if not kept:
        raise DataError(f"none of {len(groups)} groups can be packed: {_why_none(groups)}")
    device = model.trunk.model.device
    return [packed(part).to(device) for part in microbatches(kept, max_tokens)]


def _tokens(group: Group, model: Model) -> TokenGroup:
    """A group as tokens, without the responses whose judging failed."""
    if not group.responses:
        raise DataError(f"group {group.prompt.id!r} has no response: nothing can be packed of it")
    sampled = all(len(r.ids) for r in group.responses)
    made = _as_sampled(group) if sampled else model.encoder.encode_group(group)
    if group.judgement is None:
        return made
    keep = [i for i, reward in enumerate(group.rewards) if reward is not None]
    place = {old: new for new, old in enumerate(keep)}
    return replace(
        made,
        responses=tuple(_rewarded(made.responses[i], group.rewards[i]) for i in keep),
        comparisons=tuple(
            replace(c, better=place[c.better], worse=place[c.worse])
            for c in made.comparisons
            if c.better in place and c.worse in place
        ),
    )


def _rewarded(response: TokenResponse, reward: float | None) -> TokenResponse:
    assert reward is not None
    return replace(response, scalar={**response.scalar, "reward": float(reward)})


def _as_sampled(group: Group) -> TokenGroup:
    """The very tokens that were sampled; all of them count."""
    responses: list[TokenResponse] = []
    for r in group.responses:
        token: dict[str, Tensor] = {}
        if r.logprobs is not None:
            token["sampler_logprobs"] = r.logprobs.float().cpu()
        finished = {"finished": float(r.finished)}
        responses.append(TokenResponse(r.ids, [True] * len(r.ids), token, finished))
    prompt = group.prompt
    return TokenGroup(
        prompt.id,
        group.prompt_ids,
        tuple(responses),
        group.comparisons,
        group.weight,
        prompt.source,
        prompt.category,
    )


def _why_none(groups: Sequence[Group | TokenGroup]) -> str:
    judgements = [g.judgement for g in groups if isinstance(g, Group) and g.judgement is not None]
    errors = (score.error for j in judgements for score in j.scores if score.error is not None)
    first = next(errors, None)
    return f"judging every response failed, the first with: {first}" if first else "there are none"
