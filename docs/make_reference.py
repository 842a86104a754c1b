"""Write the tables of docs/recipes.md from the schema and the algorithms' settings, those of
docs/plan.md from the planner's rules, docs/commands.md from the command line, and those of
docs/from-*.md from recipe/foreign_keys.txt.

    python docs/make_reference.py           write them
    python docs/make_reference.py --check   say whether they are stale (exit code 1)

A table is between ``<!-- reference: NAME -->`` and ``<!-- end reference -->``. The meaning of
a key is its ``description`` in the code; MEANINGS holds those that the code does not describe. A
key with neither is an error, so that no key goes undocumented.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

from gnomon.algorithms.average_settings import AVERAGE, AVERAGE_SUMMARY, AverageSettings
from gnomon.algorithms.collect_settings import (
    COLLECT,
    COLLECT_SUMMARY,
    CollectSettings,
    LabellerSpec,
)
from gnomon.algorithms.control_settings import (
    CONTROL,
    CONTROL_SUMMARY,
    ClipLabellerSpec,
    ControlSettings,
)
from gnomon.algorithms.eval_settings import EVAL, EVAL_SUMMARY, EvalSettings
from gnomon.algorithms.registry import METHODS, Method
from gnomon.algorithms.revise_settings import REVISE, REVISE_SUMMARY, CriticSpec, ReviseSettings
from gnomon.cli.main import app
from gnomon.plan.methods import ADDITIONS, RULES
from gnomon.plan.ranges import RANGES
from gnomon.recipe import card, environment, rollout, schema, training
from gnomon.recipe.foreign import foreign_keys
from gnomon.recipe.reference import default_of, type_of

_NAMES = (
    *("recipes.md", "plan.md", "commands.md", "from-trl.md", "from-axolotl.md"),
    *("from-llama-factory.md", "from-openrlhf.md"),
)
PAGES = [Path(__file__).parent / name for name in _NAMES]
BLOCK = re.compile(r"(<!-- reference: (\w+) -->\n).*?(<!-- end reference -->)", re.DOTALL)
TITLES: dict[type[BaseModel], str] = {
    schema.Recipe: "The recipe",
    schema.StageSpec: "A stage",
    schema.DataSpec: "A data source",
    training.TrainSpec: "`train`",
    training.EvalSpec: "A suite",
    training.ScheduledEvalSpec: "A suite on a schedule",
    training.MonitorSpec: "`monitor`",
    training.CallbackSpec: "A callback",
    training.PeakSpec: "`stop_at_peak`",
    rollout.RolloutSpec: "`rollout`",
    schema.RewardSpec: "A reward",
    environment.EnvironmentSpec: "`environment`",
    training.LoraSpec: "`lora`",
    schema.CompareSpec: "`compare`",
    card.CardSpec: "`card`",
    card.SourceCard: "What `card` says of a source",
}
NAMES: dict[type[BaseModel], str] = {
    schema.StageSpec: "[stage](#a-stage)",
    CriticSpec: "[critic](#a-critic)",
    schema.DataSpec: "[data source](#a-data-source)",
    training.TrainSpec: "[train](#train)",
    training.EvalSpec: "[suite](#a-suite)",
    training.ScheduledEvalSpec: "[suite on a schedule](#a-suite-on-a-schedule)",
    training.MonitorSpec: "[monitor](#monitor)",
    training.CallbackSpec: "[callback](#a-callback)",
    training.PeakSpec: "[stop_at_peak](#stop_at_peak)",
    rollout.RolloutSpec: "[rollout](#rollout)",
    schema.RewardSpec: "[reward](#a-reward)",
    environment.EnvironmentSpec: "[environment](#environment)",
    training.LoraSpec: "[lora](#lora)",
    schema.CompareSpec: "[compare](#compare)",
    card.CardSpec: "[card](#card)",
    card.SourceCard: "[source](#what-card-says-of-a-source)",
    LabellerSpec: "[labeller](#a-labeller)",
    ClipLabellerSpec: "[labeller of clips](#a-labeller-of-clips)",
}
MEANINGS = {
    "Recipe.name": "the run's name; it lands in `output`/`name`",
    "Recipe.device": "`auto` takes CUDA, else the CPU; `mps` is refused (it has no float64)",
    "Recipe.sinks": "where metrics are copied to, in addition to the run folder",
    "Recipe.stages": "run in this order",
    "Recipe.compare": "sample every policy on the same prompts at the end",
    "StageSpec.name": "later stages refer to it; overrides begin with it",
    "StageSpec.algorithm": "see [the algorithms](#the-algorithms), `collect`, `average`, `eval` "
    "or `control`",
    "StageSpec.data": "what to train on (or, for `collect`, to sample on)",
    "StageSpec.eval_data": "held-out rows; give these or `holdout`",
    "StageSpec.lora": "null trains all weights; `{}` trains adapters with the defaults",
    "StageSpec.train": "how long, how fast, how often",
    "StageSpec.rollout": "how responses are sampled (on-line methods and `collect`)",
    "StageSpec.reward": "what is maximised (on-line methods), or judges (`collect`)",
    "DataSpec.path": "file, folder, hub id, `stage:NAME`, `tunnel:WHAT`, `agents:WHAT`, "
    "`instructions:prompts`, `reasoning-gym:DATASET` or `verifiers:TASKSET`",
    "DataSpec.kind": "read the rows as this; `auto` is what the algorithm needs",
    "DataSpec.format": "a format's name from [data.md](data.md); `auto` detects it",
    "DataSpec.split": "of a `datasets` folder or a hub id; not for single files",
    "LoraSpec.rank": "rank of the update",
    "LoraSpec.alpha": "the update is scaled by alpha / rank",
    "LoraSpec.dropout": "on the adapter's input",
    "LoraSpec.targets": "which linear modules, by name; `all-linear` leaves out the output head",
    "TrainSpec.epochs": "passes over the data; 1 when neither this nor `steps` is given",
    "TrainSpec.lr": "peak rate; `auto` follows [this rule](#lr-auto)",
    "TrainSpec.schedule": "after the warm-up; cosine and linear fall towards `min_lr_ratio`",
    "TrainSpec.weight_decay": "AdamW's, on weight matrices; not on biases, norms, scalar heads",
    "TrainSpec.max_grad_norm": "the joint norm that gradients are cut down to; null: never",
    "TrainSpec.tokens_per_microbatch": "memory against speed; never changes the gradient",
    "TrainSpec.gradient_checkpointing": "recompute layers in the backward pass: slow, saves memory",
    "TrainSpec.checkpoint_every": "iterations between two checkpoints; the last is always saved",
    "TrainSpec.monitor": "what is watched while a policy is sampled; see "
    "[monitors.md](monitors.md)",
    "TrainSpec.keep_checkpoints": "how many of the newest stay on disk",
    "RolloutSpec.max_new_tokens": "a longer response or turn is cut off and counts as unfinished",
    "RolloutSpec.temperature": "logits are divided by it",
    "RolloutSpec.top_p": "sample from the smallest set with this probability; 1 is off",
    "RolloutSpec.top_k": "sample from the k most likely tokens; 0 is off",
    "RolloutSpec.min_p": "drop tokens below this share of the likeliest one's probability",
    "RolloutSpec.stop": "strings that end a response",
    "RewardSpec.model": "a reward-model stage, or a reward model's folder",
    "RewardSpec.function": "your Python: `module:name` or `file.py:name`",
    "RewardSpec.builtin": "a reward that comes with gnomon; see [rewards.md](rewards.md)",
    "RewardSpec.name": "its name in metrics; by default made from the above",
    "RewardSpec.weight": "its factor where several rewards are summed",
    "RewardSpec.options": "keyword arguments of the function or builtin",
    "CompareSpec.prompts": "what every policy answers; take held-out ones",
    "CardSpec.base_licence": "the licence of the model that the run started from",
    "CardSpec.release_date": "through any channel",
    "CardSpec.intended_uses": "what the model is made for",
    "CompareSpec.rollout": "with `samples` above 1, 0/1 rewards get a table of pass@k",
}
"""Keyed by the class that has the field, or one it inherits from."""


def recipe_reference() -> str:
    """The tables of a recipe's keys."""
    return "\n".join(_section(model, f"### {title}") for model, title in TITLES.items())


def settings_reference() -> str:
    """The tables of the algorithms' settings."""
    parts, seen = [], dict[type[BaseModel], str]()
    for name, method in METHODS.items():
        preset_of = next((base for base in method.settings.__mro__[1:] if base in seen), None)
        about = _facts(method)
        if preset_of is not None:
            about += f" The settings of `{seen[preset_of]}`, with these defaults:"
        seen.setdefault(method.settings, name)
        parts.append(_section(method.settings, f"### `{name}`: {method.summary}", about, preset_of))
    about = "Needs prompts. It writes preference data for a later stage (`data: stage:NAME`)."
    title = f"### `{COLLECT}`: {COLLECT_SUMMARY}"
    parts.append(_section(CollectSettings, title, about=about))
    about = "Needs prompts. It writes demonstrations for a later stage (`data: stage:NAME`). See "
    about += "[constitutional.md](constitutional.md)."
    title = f"### `{REVISE}`: {REVISE_SUMMARY}"
    parts.append(_section(ReviseSettings, title, about=about))
    about = "Who criticises and rewrites in a `revise` stage: one of the first four."
    parts.append(_section(CriticSpec, "### A critic", about=about))
    about = "Needs no data, starts from nothing but `models`, and gives a policy. See "
    about += "[cures.md](cures.md#averages-of-weights)."
    parts.append(_section(AverageSettings, f"### `{AVERAGE}`: {AVERAGE_SUMMARY}", about=about))
    about = "Needs no data of its own: its suites name their files. Later stages start from the "
    about += "policy that it measured. See [evals.md](evals.md)."
    parts.append(_section(EvalSettings, f"### `{EVAL}`: {EVAL_SUMMARY}", about=about))
    about = "Needs no data and no model (`model: none`): it plays a Gymnasium environment. See "
    about += "[control.md](control.md)."
    parts.append(_section(ControlSettings, f"### `{CONTROL}`: {CONTROL_SUMMARY}", about=about))
    about = (
        "Who compares the clips of a `control` stage; see [control.md](control.md#who-compares)."
    )
    parts.append(_section(ClipLabellerSpec, "### A labeller of clips", about=about))
    about = "A simulated labeller of the built-in world; see [tunnel.md](tunnel.md)."
    parts.append(_section(LabellerSpec, "### A labeller", about=about))
    return "\n".join(parts)


def foreign_reference(framework: str) -> str:
    """The tables of another trainer's keys: with a counterpart, and without."""
    own = [key for key in foreign_keys() if framework in key.frameworks]
    ours, none = dict[tuple[str, str], list[str]](), dict[str, list[str]]()
    for key in own:
        names = (
            ours.setdefault((key.ours, key.remark), [])
            if key.ours
            else none.setdefault(key.remark, [])
        )
        names.append(f"`{key.name}`")
    lines = [f"| {framework} | gnomon | remark |", "|---|---|---|"]
    for (name, remark), names in ours.items():
        lines.append(f"| {', '.join(names)} | `{name}` | {remark} |")
    lines += ["", "Without a counterpart:", "", f"| {framework} | why |", "|---|---|"]
    lines += [f"| {', '.join(names)} | {remark} |" for remark, names in none.items()]
    return "\n".join(lines) + "\n"


def ranges_reference() -> str:
    """The table of the field's ranges."""
    lines = ["| key | methods | from | to | why | who |", "|---|---|---|---|---|---|"]
    for one in RANGES:
        methods = ", ".join(f"`{name}`" for name in one.methods)
        size = f" ({one.least:.0e} parameters and more)" if one.least else ""
        cells = (f"`{one.key}`{size}", methods, f"{one.low:g}", f"{one.high:g}", one.because)
        lines.append(f"| {' | '.join(cells)} | {one.reference} |")
    return "\n".join(lines) + "\n"


def rules_reference() -> str:
    """The table of the rules that choose a method, and of what they add."""

    def named(stages: Iterable[str]) -> str:
        return ", ".join(f"`{stage}`" for stage in stages)

    lines = ["| data | stages | why | otherwise | more data |", "|---|---|---|---|---|"]
    for rule in RULES:
        other = f"{named(rule.instead)}, where {rule.unless}" if rule.instead else ""
        why = f"{rule.because} ({rule.reference})"
        cells = (f"**{rule.name}**: {rule.needs}", named(rule.stages), why, other, rule.more)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Whatever the rule, the data may ask for a setting:", ""]
    lines += ["| where | stages | setting | why |", "|---|---|---|---|"]
    for one in ADDITIONS:
        setting = ", ".join(f"`{key}: {value}`" for key, value in one.settings.items())
        why = f"{one.because} ({one.reference})"
        lines.append(f"| {one.needs} | {named(one.methods)} | {setting} | {why} |")
    return "\n".join(lines) + "\n"


def commands_reference() -> str:
    """A section for each command, with its arguments and options."""
    return "\n".join(_commands(get_command(app), "gnomon"))


def _commands(command: Any, name: str) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if inner:
        for word, below in sorted(inner.items()):
            yield from _commands(below, f"{name} {word}")
        return
    about = re.sub(r"\n\s*\n", "\n\n", inspect.cleandoc(command.help or "")).replace("``", "`")
    about = "\n".join(
        textwrap.fill(line, 100, break_on_hyphens=False)
        if len(line) > 100 and line[0] != " "
        else line
        for line in about.split("\n")
    )
    rows = [_option(p) for p in command.params if not p.hidden and p.name != "help"]
    table = ["| argument or option | default | meaning |", "|---|---|---|", *rows] if rows else []
    yield "\n".join([f"## {name}", "", about, "", *table, ""])


def _option(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [(parameter.metavar or parameter.name or "").upper()]
    default = "" if parameter.default in (None, False, [], ()) else f"`{parameter.default}`"
    help = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
    return f"| {', '.join(f'`{name}`' for name in names)} | {default} | {help} |"


def render(page: str) -> str:
    """The page with its tables made again.

    Raises:
        KeyError: a marker names no table, or a key has no meaning.
    """
    tables = {
        "recipe": recipe_reference,
        "settings": settings_reference,
        "rules": rules_reference,
        "ranges": ranges_reference,
        "trl": lambda: foreign_reference("TRL"),
        "axolotl": lambda: foreign_reference("Axolotl"),
        "llama_factory": lambda: foreign_reference("LLaMA-Factory"),
        "openrlhf": lambda: foreign_reference("OpenRLHF"),
        "commands": commands_reference,
    }
    return BLOCK.sub(lambda m: f"{m[1]}\n{tables[m[2]]()}\n{m[3]}", page)


def _facts(method: Method) -> str:
    algorithm = method.algorithm
    kinds = {"rankings": "preferences or rankings", "unpaired": "answers labelled good or bad"}
    out = {"reward_model": "a reward model", "policy": "a policy"}[algorithm.produces]
    return f"Needs {kinds.get(algorithm.data, algorithm.data)}. Gives {out}."


def _section(
    model: type[BaseModel],
    title: str,
    about: str | None = None,
    preset_of: type[BaseModel] | None = None,
) -> str:
    if about is None:
        about = re.sub(r"``(.*?)``", r"`\1`", "\n".join(map(str.strip, _doc(model))))
    rows = "\n".join(_rows(model, preset_of))
    return f"{title}\n\n{about}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _doc(model: type[BaseModel]) -> list[str]:
    return (model.__doc__ or "").strip().splitlines()


def _rows(model: type[BaseModel], preset_of: type[BaseModel] | None = None) -> Iterator[str]:
    known = {} if preset_of is None else preset_of.model_fields
    for name, field in model.model_fields.items():
        if name in known and default_of(known[name]) == default_of(field):
            continue
        cells = (
            f"`{field.alias or name}`",
            type_of(field, NAMES),
            default_of(field),
            _meaning(model, name),
        )
        yield "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _meaning(model: type[BaseModel], name: str) -> str:
    said = model.model_fields[name].description
    if said:
        return said
    for owner in model.__mro__:
        if (found := MEANINGS.get(f"{owner.__name__}.{name}")) is not None:
            return found
    raise KeyError(
        f"{model.__name__}.{name} has no meaning: give its Field a description, or add it to "
        "MEANINGS in docs/make_reference.py"
    )


def main() -> int:
    stale = []
    for file in PAGES:
        page = file.read_text(encoding="utf-8")
        fresh = render(page)
        if fresh != page:
            stale.append(f"docs/{file.name}")
            if "--check" not in sys.argv[1:]:
                file.write_text(fresh, encoding="utf-8")
    if "--check" not in sys.argv[1:]:
        return 0
    print(f"stale: {', '.join(stale)}: python docs/make_reference.py" if stale else "fresh")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
