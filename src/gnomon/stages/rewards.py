"""From a recipe's reward entries to one Reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.judges.builtins import BUILTIN, check_builtin
from gnomon.judges.function import function_reward
from gnomon.judges.learned import Encode, LearnedReward
from gnomon.judges.mixture import Mixture
from gnomon.judges.protocol import Reward, Sample
from gnomon.models.save import LoadedReward
from gnomon.plugins import load_builtin
from gnomon.recipe.schema import RewardSpec
from gnomon.records import Group, Message, Response
from gnomon.stages.sources import context_of


def build_reward(
    specs: Sequence[RewardSpec],
    *,
    base: Path,
    load: Callable[[str], LoadedReward],
    tokenizer: Any = None,
) -> Reward:
    """One reward, or the weighted sum of several (each logged under its own name).

    Args:
        base: the folder that files are looked up in (the recipe's own).
        load: reads the reward model that a spec names.
        tokenizer: the policy's; a reward model with another one reads the text anew.
    """
    parts = [
        (one_reward(spec, base=base, load=load, tokenizer=tokenizer), spec.weight) for spec in specs
    ]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return Mixture(parts)


def one_reward(
    spec: RewardSpec,
    *,
    base: Path,
    load: Callable[[str], LoadedReward],
    tokenizer: Any = None,
) -> Reward:
    """The reward behind one entry.

    Raises:
        ConfigError: an unknown builtin, a function that cannot be imported, a wrong option.
    """
    if spec.model is not None:
        loaded = load(spec.model)
        return LearnedReward(
            loaded.members,
            loaded.normaliser,
            name=spec.label,
            ensemble=spec.ensemble,
            std_coef=spec.std_coef,
            encode=None if tokenizer is None else own_encoding(loaded, tokenizer),
        )
    if spec.function is not None:
        return function_reward(spec.function, base, spec.options, spec.label)
    reward = _builtin(str(spec.builtin), spec.options)
    reward.name = spec.label
    return reward


def reads_tokens_of(tokenizer: Any, policys: Any) -> bool:
    """Whether every token of the policy has the same id in ``tokenizer``."""
    vocabulary = tokenizer.get_vocab()
    return all(vocabulary.get(token) == i for token, i in policys.get_vocab().items())


def own_encoding(loaded: LoadedReward, tokenizer: Any) -> Encode | None:
    """How a reward model tokenises samples of a policy with another tokenizer; None for the same.

    The same means that every token of the policy has the same id (a padding token more is no
    difference).
    """
    trunk = loaded.members[0].trunk
    if reads_tokens_of(trunk.tokenizer, tokenizer):
        return None
    window = context_of(trunk.model.config) or 1_000_000
    encoder = Encoder(trunk.tokenizer, max_length=window, truncation="left")

    def encode(sample: Sample) -> tuple[Sequence[int], Sequence[int]]:
        answer = Response((Message("assistant", sample.text),))
        group = encoder.encode_group(Group(sample.prompt, (answer,)), empty_ok=True)
        ids, mask = list(group.responses[0].ids), group.responses[0].mask
        if not sample.finished:  # a cut-off answer must not look finished
            while len(ids) > 1 and (not mask[len(ids) - 1] or ids[-1] in encoder.stop_ids):
                ids.pop()
        return group.prompt_ids, ids

    return encode


def _builtin(name: str, options: Mapping[str, Any]) -> Reward:
    check_builtin(name)
    try:
        reward: Reward = load_builtin(BUILTIN[name])(**options)
        return reward
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"reward {name!r}: its options {dict(options)}: {error}") from error
