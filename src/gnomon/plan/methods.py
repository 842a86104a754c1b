"""Which method the data is for: one table of rules, read from the top.

The first rule that applies is the recommendation; it names its runner-up and when that is better.
Additions say what to set beside it. Each rule has its reason and the paper that it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.errors import ConfigError
from gnomon.plan.facts import Facts

FEW = 200
"""Prompts below which a method has little to learn from; with fewer, what is found is noise."""
MANY = 10_000
"""Judged prompts from which a reward model generalises far enough to be optimised on line."""
NOISY = 0.65
"""Agreement of two people below which a label says little by itself."""
LONG = 0.6
"""Share of the better answers that are the longer ones, from which length is worth a cure."""
STRANGE = 0.5
"""Nats per token by which the model's own answers are likelier to it than the data's."""


@dataclass(frozen=True)
class Rule:
    """When to use which stages, and why.

    Attributes:
        name: of the rule.
        when: whether it applies, and ``needs``: the same in words.
        stages: algorithms in order; ``sft`` first is left out where nothing is to imitate.
        because: the reason, one or two sentences.
        reference: the paper.
        instead, unless: the runner-up's stages (none: there is no other way), and when they are
            the better ones.
        more: what more data would change.
    """

    name: str
    needs: str
    when: Callable[[Facts], bool]
    stages: tuple[str, ...]
    because: str
    reference: str
    instead: tuple[str, ...]
    unless: str
    more: str


RULES: tuple[Rule, ...] = (
    Rule(
        "checkable, after preferences",
        f"{FEW} checkable prompts, and {FEW} with judged answers",
        lambda f: f.checkable >= FEW and f.compared >= FEW,
        ("sft", "dpo", "grpo"),
        "Pairs teach manners and taste, and a program checks the answers: preferences first, then "
        "reinforcement from the check, whose reward cannot be talked round.",
        "Lambert et al. 2024, Tulu 3",
        ("sft", "grpo"),
        "only the checked answers matter",
        "harder checkable prompts: those that the model always or never solves teach nothing",
    ),
    Rule(
        "checkable",
        f"{FEW} checkable prompts",
        lambda f: f.checkable >= FEW,
        ("sft", "grpo"),
        "A program can check the answers, so no reward model is needed and none can be fooled; "
        "GRPO needs no value model either.",
        "Shao et al. 2024, DeepSeekMath; DeepSeek-AI 2025, R1",
        ("sft", "raft"),
        "a first, steady step is enough: SFT on its own right answers (rejection sampling)",
        "prompts that the model solves sometimes: groups that are all right or all wrong have no "
        "gradient",
    ),
    Rule(
        "full PPO: many rankings",
        f"{MANY:,} rankings of three answers or more",
        lambda f: f.rankings >= MANY,
        ("sft", "reward_model", "ppo"),
        "Rankings of this volume train a reward model that holds on new prompts, and K answers of "
        "a prompt in one pass are what it learns best from. The value model's credit for each "
        "token pays from here on.",
        "Ouyang et al. 2022, InstructGPT; Stiennon et al. 2020",
        ("sft", "dpo"),
        "the labels are older than the policy, or the budget has no room for four models",
        "labels of the new policy's answers: a reward model goes stale as the policy moves",
    ),
    Rule(
        "pairs of another model",
        f"{FEW} prompts with judged answers, and --likelihood finds the model's own answers "
        f"likelier by more than {STRANGE:g} nats a token",
        lambda f: f.compared >= FEW and f.off_policy is not None and f.off_policy.low > STRANGE,
        ("sft", "reward_model", "online_dpo"),
        "The data's answers are not those that this model writes, so that DPO would mostly learn "
        "to tell the two writers apart. A reward model of the pairs, asked about the model's own "
        "answers, carries the judgement over.",
        "Tajwar et al. 2024, on-policy preference data; Guo et al. 2024, OAIF",
        ("sft", "dpo"),
        "SFT on the better answers comes first and brings the model to them",
        "judged answers of this very model, with which plain DPO does",
    ),
    Rule(
        "rankings",
        f"{FEW} rankings of three answers or more, and no more pairs than rankings",
        lambda f: f.rankings >= FEW and f.rankings >= f.pairs,
        ("sft", "dpo"),
        "DPO learns from rankings too, of which it takes every pair, and needs neither reward nor "
        "value model.",
        "Rafailov et al. 2023, DPO",
        ("sft", "reward_model", "online_dpo"),
        "the policy's own answers differ from those that were ranked (--likelihood says)",
        f"{MANY:,} rankings would be worth a reward model and PPO",
    ),
    Rule(
        "pairs",
        f"{FEW} prompts with judged answers",
        lambda f: f.compared >= FEW,
        ("sft", "dpo"),
        "Pairs are what DPO is for: one model trained, one frozen, no sampling.",
        "Rafailov et al. 2023, DPO",
        ("sft", "reward_model", "online_dpo"),
        "the policy's own answers differ from those that were compared (--likelihood says)",
        "a judge or a reward model for the policy's own answers would allow rounds on line",
    ),
    Rule(
        "thumbs",
        f"{FEW} answers marked good or bad, some of each",
        lambda f: min(f.good, f.bad) > 0 and f.unpaired >= FEW,
        ("sft", "kto"),
        "Single answers marked good or bad: KTO needs no pairs, and takes unequal numbers of both.",
        "Ethayarajh et al. 2024, KTO",
        ("sft",),
        "nearly all marks are good: SFT on the good answers",
        "two answers to one prompt, judged against each other, say more per label",
    ),
    Rule(
        "a constitution",
        f"--constitution, and {FEW} prompts",
        lambda f: f.constitution and f.sampled >= FEW,
        ("revise", "sft", "collect", "dpo"),
        "Nobody labels: the model criticises and revises its own answers by the constitution, "
        "learns from the revisions, and a judge compares further answers by the same text.",
        "Bai et al. 2022, Constitutional AI; Lee et al. 2023, RLAIF",
        ("collect", "dpo"),
        "the model already answers as the constitution wants more often than not",
        "50 labels of people, so that the judge can be believed (gnomon calibrate)",
    ),
    Rule(
        "prompts and a judge",
        f"--judge, and {FEW} prompts",
        lambda f: f.judge and f.sampled >= FEW,
        ("sft", "collect", "dpo"),
        "The model's own answers, compared by the judge, are on-policy pairs.",
        "Lee et al. 2023, RLAIF; Dong et al. 2024, iterative DPO",
        ("sft", "online_dpo"),
        "the judge is cheap: then every round can have new answers",
        "50 labels of people, so that the judge can be believed (gnomon calibrate)",
    ),
    Rule(
        "few judgements",
        f"judged answers to fewer than {FEW} prompts, or fewer than {FEW} marks",
        lambda f: f.compared > 0 or min(f.good, f.bad) > 0,
        ("sft",),
        "Too few judgements to learn from which answers are better: what is found in them is "
        "mostly noise. Their better answers are answers to imitate, where no demonstrations are.",
        "Ouyang et al. 2022, InstructGPT, section 3.1",
        (),
        "",
        f"judgements of {FEW} prompts (gnomon label, gnomon judge) would allow DPO, and as many "
        "marks KTO",
    ),
    Rule(
        "good marks alone",
        "answers marked good, none marked bad, and no demonstrations",
        lambda f: f.good > 0 and not f.bad and not f.demonstrations,
        ("sft",),
        "All marks are good, so that nothing says what to avoid: the answers are there to imitate.",
        "Ouyang et al. 2022, InstructGPT, section 3.1",
        (),
        "",
        f"answers marked bad, too: {FEW} marks, some of each, would allow KTO",
    ),
    Rule(
        "demonstrations",
        "any demonstrations",
        lambda f: f.demonstrations > 0,
        ("sft",),
        "Answers to imitate, and nothing that says which of two is better.",
        "Ouyang et al. 2022, InstructGPT, section 3.1",
        (),
        "",
        f"judgements of {FEW} prompts or more (gnomon label, gnomon judge) would allow DPO",
    ),
)
"""Every rule, the first that applies first."""


@dataclass(frozen=True)
class Addition:
    """A setting that the data asks for, whatever the method."""

    needs: str
    when: Callable[[Facts], bool]
    methods: tuple[str, ...]
    settings: Mapping[str, Any]
    because: str
    reference: str


def _noisy(facts: Facts) -> bool:
    return facts.agreement is not None and facts.agreement.high < NOISY


def _long(facts: Facts) -> bool:
    return facts.longer is not None and facts.longer > LONG


ADDITIONS: tuple[Addition, ...] = (
    Addition(
        f"people agree on less than {NOISY:.0%} of pairs, at the high end of the interval",
        _noisy,
        ("dpo", "online_dpo", "reward_model"),
        {"label_smoothing": 0.1},
        "labels are wrong too often to be fitted as if they were certain",
        "Mitchell 2023, conservative DPO; Chowdhury et al. 2024, robust DPO",
    ),
    Addition(
        f"the better answer is the longer one in more than {LONG:.0%} of pairs",
        lambda f: _long(f) and not _noisy(f),
        ("dpo", "online_dpo"),
        {"length_regularisation": 0.01},
        "the policy would learn length",
        "Park et al. 2024, R-DPO",
    ),
    Addition(
        f"both: less than {NOISY:.0%} agreement, and the longer one better in more than {LONG:.0%}",
        lambda f: _long(f) and _noisy(f),
        ("dpo", "online_dpo"),
        {"length_desensitise": 0.5},
        "the policy would learn length, and R-DPO's cure does not go with smoothed labels",
        "Liu et al. 2024, LD-DPO",
    ),
    Addition(
        f"the better answer is the longer one in more than {LONG:.0%} of pairs",
        _long,
        ("reward_model",),
        {"length_debias": "slope"},
        "the reward would be length",
        "Singhal et al. 2023, A long way to go",
    ),
    Addition(
        "good marks are more than twice the bad ones, or less than half",
        lambda f: f.unpaired > 0 and not 0.5 <= f.good / max(1, f.bad) <= 2,
        ("kto",),
        {"desirable_weight": "auto"},
        "both classes should weigh the same in total",
        "Ethayarajh et al. 2024, KTO, section 4.2",
    ),
)


@dataclass(frozen=True)
class Choice:
    """What is recommended.

    Attributes:
        rule, stages: the rule that decided, and its stages as they apply here.
        runner_up: the stages to take otherwise; empty where there are none.
        settings: by stage, with the reason of each.
        warnings: what to settle first.
    """

    rule: Rule
    stages: tuple[str, ...]
    runner_up: tuple[str, ...]
    settings: tuple[tuple[str, Addition], ...]
    warnings: tuple[str, ...]


def choose(facts: Facts) -> Choice:
    """The pipeline for this data, the runner-up, and what would change it.

    Raises:
        ConfigError: there is nothing to learn from.
    """
    rule = next((rule for rule in RULES if rule.when(facts)), None)
    if rule is None:
        raise ConfigError(_nothing(facts))
    stages = _without_sft(rule.stages, facts)
    other = _without_sft(rule.instead, facts)
    return Choice(
        rule,
        stages,
        other if other != stages else (),
        additions(stages, facts),
        tuple(_warnings(facts)),
    )


def additions(stages: tuple[str, ...], facts: Facts) -> tuple[tuple[str, Addition], ...]:
    """What the data asks to set in these stages, by stage."""
    return tuple(
        (stage, addition)
        for stage in stages
        for addition in ADDITIONS
        if stage in addition.methods and addition.when(facts)
    )


def _without_sft(stages: tuple[str, ...], facts: Facts) -> tuple[str, ...]:
    """SFT first only where there is something to imitate, and where the model does not answer yet
    or the demonstrations are many."""
    if stages[:1] != ("sft",) or stages == ("sft",):
        return stages
    own = facts.demonstrations - facts.compared
    wanted = own >= FEW or (not facts.tuned and facts.demonstrations + facts.good > 0)
    return stages if wanted else stages[1:]


def _warnings(facts: Facts) -> Sequence[str]:
    found = []
    if facts.leaked:
        found.append(
            f"{facts.leaked} prompts are also in the held-out file: take them out of one of the two"
        )
    if facts.contradictions > 0.05 * max(1, facts.compared):
        found.append(f"{facts.contradictions} pairs are judged both ways: settle them first")
    if facts.agreement is not None and facts.agreement.low <= 0.5:
        found.append(
            f"agreement is {facts.agreement.value:.2f} [{facts.agreement.low:.2f}, "
            f"{facts.agreement.high:.2f}]: it is not shown that these labels say anything"
        )
    return found


def _nothing(facts: Facts) -> str:
    """Why no rule applies, and what would make one."""
    has = [
        f"{count:,} {words}"
        for count, words in (
            (facts.compared, "judged prompts"),
            (facts.unpaired, "labelled answers" + (", all bad" if not facts.good else "")),
            (facts.checkable, "checkable prompts"),
            (facts.prompts, "prompts"),
        )
        if count
    ]
    return (
        f"there is too little to learn from: {', '.join(has) or 'no rows'}. It takes "
        f"demonstrations, or {FEW} prompts with judged answers, with answers that a program can "
        "check, or with a judge (--judge) or a constitution (--constitution)"
    )
