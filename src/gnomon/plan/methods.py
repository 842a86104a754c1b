"""Which method the data is for: one table of rules, read from the top.

The first rule that applies is the recommendation, the next one of another method the runner-up.
Additions say what to set beside it. Each rule has its reason and the paper that it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        when: whether it applies.
        stages: algorithms in order; ``sft`` first is left out where nothing is to imitate.
        because: the reason, one or two sentences.
        reference: the paper.
        more: what more data would change.
    """

    name: str
    when: Callable[[Facts], bool]
    stages: tuple[str, ...]
    because: str
    reference: str
    more: str


RULES: tuple[Rule, ...] = (
    Rule(
        "checkable, after preferences",
        lambda f: f.checkable >= FEW and f.compared >= FEW,
        ("sft", "dpo", "grpo"),
        "Pairs teach manners and taste, and a program checks the answers: preferences first, then "
        "reinforcement from the check, whose reward cannot be talked round.",
        "Lambert et al. 2024, Tulu 3",
        "harder checkable prompts: those that the model always or never solves teach nothing",
    ),
    Rule(
        "checkable",
        lambda f: f.checkable >= FEW,
        ("sft", "grpo"),
        "A program can check the answers, so no reward model is needed and none can be fooled; "
        "GRPO needs no value model either.",
        "Shao et al. 2024, DeepSeekMath; DeepSeek-AI 2025, R1",
        "prompts that the model solves sometimes: groups that are all right or all wrong have no "
        "gradient",
    ),
    Rule(
        "full PPO: many rankings",
        lambda f: f.rankings >= MANY,
        ("sft", "reward_model", "ppo"),
        "Rankings of this volume train a reward model that holds on new prompts, and K answers of "
        "a prompt in one pass are what it learns best from. The value model's credit for each "
        "token pays from here on.",
        "Ouyang et al. 2022, InstructGPT; Stiennon et al. 2020",
        "labels of the new policy's answers: a reward model goes stale as the policy moves",
    ),
    Rule(
        "pairs of another model",
        lambda f: f.compared >= FEW and f.off_policy is not None and f.off_policy > STRANGE,
        ("sft", "reward_model", "online_dpo"),
        "The data's answers are not those that this model writes, so that DPO would mostly learn "
        "to tell the two writers apart. A reward model of the pairs, asked about the model's own "
        "answers, carries the judgement over.",
        "Tajwar et al. 2024, on-policy preference data; Guo et al. 2024, OAIF",
        "judged answers of this very model, with which plain DPO does",
    ),
    Rule(
        "rankings",
        lambda f: f.rankings >= FEW and f.rankings >= f.pairs,
        ("sft", "dpo"),
        "DPO learns from whole rankings (Plackett and Luce's likelihood) and needs neither reward "
        "nor value model.",
        "Rafailov et al. 2023, DPO, appendix A.3",
        f"{MANY:,} rankings would be worth a reward model and PPO",
    ),
    Rule(
        "pairs",
        lambda f: f.compared >= FEW,
        ("sft", "dpo"),
        "Pairs are what DPO is for: one model trained, one frozen, no sampling.",
        "Rafailov et al. 2023, DPO",
        "a judge or a reward model for the policy's own answers would allow rounds on line",
    ),
    Rule(
        "thumbs",
        lambda f: min(f.good, f.bad) > 0 and f.unpaired >= FEW,
        ("sft", "kto"),
        "Single answers marked good or bad: KTO needs no pairs, and takes unequal numbers of both.",
        "Ethayarajh et al. 2024, KTO",
        "two answers to one prompt, judged against each other, say more per label",
    ),
    Rule(
        "a constitution",
        lambda f: f.constitution and f.prompts >= FEW,
        ("revise", "sft", "collect", "dpo"),
        "Nobody labels: the model criticises and revises its own answers by the constitution, "
        "learns from the revisions, and a judge compares further answers by the same text.",
        "Bai et al. 2022, Constitutional AI; Lee et al. 2023, RLAIF",
        "50 labels of people, so that the judge can be believed (gnomon calibrate)",
    ),
    Rule(
        "prompts and a judge",
        lambda f: f.judge and f.prompts >= FEW,
        ("collect", "dpo"),
        "The model's own answers, compared by the judge, are on-policy pairs.",
        "Lee et al. 2023, RLAIF; Dong et al. 2024, iterative DPO",
        "50 labels of people, so that the judge can be believed (gnomon calibrate)",
    ),
    Rule(
        "demonstrations",
        lambda f: f.demonstrations > 0,
        ("sft",),
        "Answers to imitate, and nothing that says which of two is better.",
        "Ouyang et al. 2022, InstructGPT, section 3.1",
        f"judgements of {FEW} prompts or more (gnomon label, gnomon judge) would allow DPO",
    ),
)
"""Every rule, the first that applies first."""


@dataclass(frozen=True)
class Addition:
    """A setting that the data asks for, whatever the method."""

    when: Callable[[Facts], bool]
    methods: tuple[str, ...]
    setting: str
    because: str
    reference: str


ADDITIONS: tuple[Addition, ...] = (
    Addition(
        lambda f: f.agreement is not None and f.agreement.high < NOISY,
        ("dpo", "online_dpo"),
        "settings.label_smoothing=0.1",
        "two people agree on less than two pairs of three",
        "Mitchell 2023, conservative DPO; Chowdhury et al. 2024, robust DPO",
    ),
    Addition(
        lambda f: f.longer is not None and f.longer > LONG,
        ("dpo", "online_dpo"),
        "settings.length_regularisation=0.01",
        "the better answer is mostly the longer one, and the policy would learn length",
        "Park et al. 2024, R-DPO",
    ),
    Addition(
        lambda f: f.longer is not None and f.longer > LONG,
        ("reward_model",),
        "settings.length_debias=slope",
        "the better answer is mostly the longer one, and the reward would be length",
        "Singhal et al. 2023, A long way to go",
    ),
)


@dataclass(frozen=True)
class Choice:
    """What is recommended.

    Attributes:
        rule, stages: the rule that decided, and its stages as they apply here.
        runner_up: the next rule that applies and is of other stages, if any.
        settings: by stage, with the reason of each.
        warnings: what to settle first.
    """

    rule: Rule
    stages: tuple[str, ...]
    runner_up: Rule | None
    settings: tuple[tuple[str, Addition], ...]
    warnings: tuple[str, ...]


def choose(facts: Facts) -> Choice:
    """The pipeline for this data, the runner-up, and what would change it.

    Raises:
        ConfigError: there is nothing to learn from.
    """
    apply = [rule for rule in RULES if rule.when(facts)]
    if not apply:
        raise ConfigError(_nothing(facts))
    first = apply[0]
    stages = _without_sft(first.stages, facts)
    others = (rule for rule in apply[1:] if _without_sft(rule.stages, facts) != stages)
    wanted = tuple(
        (stage, addition)
        for stage in stages
        for addition in ADDITIONS
        if stage in addition.methods and addition.when(facts)
    )
    return Choice(first, stages, next(others, None), wanted, tuple(_warnings(facts)))


def _without_sft(stages: tuple[str, ...], facts: Facts) -> tuple[str, ...]:
    """SFT only where there is something to imitate, and where the model does not answer yet or the
    demonstrations are many."""
    if stages[0] != "sft" or stages == ("sft",):
        return stages
    own = facts.demonstrations - facts.compared
    wanted = own >= FEW or (not facts.tuned and facts.demonstrations > 0)
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
            (facts.unpaired, "labelled answers"),
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
