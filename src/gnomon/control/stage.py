"""The ``control`` stage: a control task learned from comparisons of clips of what the policy did.

Christiano et al. 2017 (arXiv:1706.03741), in rounds: clips are chosen and compared, the reward nets
are fitted, the policy plays and learns for some episodes. Before every round all is saved.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gnomon.algorithms.control_settings import CONTROL
from gnomon.control.episodes import (
    Actor,
    Experience,
    Floats,
    Recorded,
    StepReward,
    Still,
    episode_steps,
    make_env,
    play,
    try_out,
)
from gnomon.control.queries import Desk, choose, schedule
from gnomon.control.reward_nets import Comparisons, Learned, RewardNets, fit
from gnomon.errors import ConfigError, RunError, RunStopped
from gnomon.files import write_folder
from gnomon.models.memory import RoleNeed
from gnomon.recipe.schema import Kind
from gnomon.runs.checkpoint import CheckpointStore
from gnomon.runs.packing import plain_tensors
from gnomon.runs.records import EVALS, Evals, StageInfo
from gnomon.stages.stage import Stage
from gnomon.stages.untrained import UNUSED
from gnomon.stats.intervals import Interval, mean_interval
from gnomon.training.kept import Kept
from gnomon.training.progress import Progress

NO_MODEL = "none"
_EVALUATED_FROM = 1_000_003
"""The seeds of evaluated episodes begin here, the same for every stage of a recipe."""


class Control(Stage):
    """Learns a control task; see :class:`~gnomon.algorithms.control_settings.ControlSettings`."""

    reads_data: ClassVar[bool] = False
    reads_model: ClassVar[bool] = False

    @property
    def data_kind(self) -> Kind:
        return "prompts"

    @property
    def samples(self) -> bool:
        return False

    def needs(self) -> tuple[RoleNeed, ...]:
        return ()

    def metrics(self) -> tuple[str, ...]:
        own: tuple[str, ...] = ("reward", "gold", "episodes", "updates", "seconds")
        own += ("share", "random_play", "no_action")
        asked: tuple[str, ...] = ("comparisons", "ties", "loss", "held_out_loss", "accuracy")
        asked += ("disagreement", "correlation")
        return own + (asked if self.settings.reward == "comparisons" else ())

    def iterations(self, rows: int) -> int:
        return int(self.settings.rounds)

    def start_model(self) -> str:
        return NO_MODEL

    def check(self) -> None:
        s, spec = self.settings, self.spec
        given = [key.rstrip("_") for key in (*UNUSED, "from_", "probes") if getattr(spec, key)]
        given += [key for key in ("train", "rollout") if getattr(spec, key).model_fields_set]
        if given:
            raise ConfigError(
                f"a control stage plays episodes and starts from nothing: remove {', '.join(given)}"
                "; what it can be told is in settings"
            )
        if self.recipe.model != NO_MODEL:
            raise ConfigError(f"a control stage reads no language model: write model: {NO_MODEL}")
        if self.recipe.sinks or self.recipe.callbacks:
            raise ConfigError("a control stage tells no sinks and callbacks: remove them")
        importlib.import_module("gnomon.control.learner")  # or it says which package is missing
        env = make_env(s.environment, s.options, end_penalty=s.end_penalty)
        try_out(env)
        env.close()
        if s.reward == "comparisons" and s.clip_steps > episode_steps(env):
            raise ConfigError(
                f"clip_steps ({s.clip_steps}) is more than an episode of {s.environment} has "
                f"({episode_steps(env)})"
            )
        if s.store is not None and "://" not in s.store and not Path(self.store).parent.is_dir():
            raise ConfigError(f"store {s.store!r}: there is no folder {Path(self.store).parent}")
        if s.against is not None:
            self._check_against(s.against)

    def _check_against(self, name: str) -> None:
        stages = self.recipe.stages
        place = [stage.name for stage in stages].index(self.name)
        earlier = {s.name: s for s in stages[:place] if s.algorithm == CONTROL}
        if name not in earlier:
            known = ", ".join(earlier) or "none"
            raise ConfigError(f"against {name!r}: no control stage before this one; known: {known}")
        other = earlier[name].settings
        if other.get("reward") != "truth":
            raise ConfigError(f"against {name!r}: it is not trained on the true reward")
        own = (self.settings.environment, self.settings.options, self.settings.end_penalty)
        if (other.get("environment"), other.get("options", {}), other.get("end_penalty")) != own:
            raise ConfigError(
                f"against {name!r}: it is trained on another environment, other options or another "
                "end_penalty"
            )

    def perform(self, info: StageInfo, resume: bool) -> None:
        """Nothing is loaded."""
        info.note(start={"from": NO_MODEL})
        info.note(**self._work(resume))

    def _work(self, resume: bool) -> dict[str, Any]:
        with self.progress(self.settings.rounds) as progress:
            rounds = Rounds(self, progress)
            try:
                rounds.run(resume)
                found = self._evaluate(rounds)
            finally:
                rounds.close()
        return {"iterations": self.settings.rounds, **found}

    def _evaluate(self, rounds: Rounds) -> dict[str, Any]:
        """Play with the finished policy, at random and without actions; save the nets and what was
        found."""
        s = self.settings
        first = _EVALUATED_FROM + self.recipe.seed * 1009  # the same for every stage
        actors: dict[str, Actor | None] = {"gold": rounds.learner, "random_play": None}
        actors["no_action"] = Still(rounds.env)
        figures = {
            name: mean_interval(
                play(s.environment, s.options, actor, s.eval_episodes, first, s.end_penalty),
                method="t",
            )
            for name, actor in actors.items()
        }
        if s.against is not None:
            top = Evals.read(self.run.stage(s.against).path / EVALS).figures()["policy.gold"]
            base = max(figures[name].value for name in ("random_play", "no_action"))
            share = share_of(figures["gold"].value, top.value, base)
            if share is None:
                rounds.progress.note(
                    f"{s.against} gained nothing over play at random or without actions, so there "
                    "is no share of it to speak of: give it more episodes"
                )
            else:
                figures["share"] = Interval(share, float("nan"), float("nan"), s.eval_episodes)
        Evals({"policy": {k: v.to_dict() for k, v in figures.items()}}).write(
            self.folder.path / EVALS
        )
        rounds.save_models(self.folder.model)
        return {
            "summary": dict(rounds.last),
            "held_out": {name: figure.value for name, figure in figures.items()},
        }

    @cached_property
    def store(self) -> str:
        """Where comparisons are kept."""
        where = self.settings.store
        if where is None:
            return str(self.folder.path / "labels.db")
        return str(where) if "://" in where else str(self.base / where)


def share_of(learned: float, truth: float, base: float) -> float | None:
    """How much of what training on the true reward gains over ``base`` is reached; None where that
    is nothing."""
    return (learned - base) / (truth - base) if truth > base else None


class Noise:
    """A reward that means nothing: drawn anew for every step, and whenever it is asked again."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, inputs: Floats, true: Floats) -> Floats:
        return self._rng.standard_normal(len(true)).astype(np.float32)


def true_reward(inputs: Floats, true: Floats) -> Floats:
    """The environment's own."""
    return true


class Rounds:
    """The rounds of a control stage, from its last checkpoint on.

    Attributes:
        learner: the policy.
        last: the last round's figures.
    """

    def __init__(self, stage: Control, progress: Progress) -> None:
        from gnomon.control.learner import Learner  # imports stable-baselines3

        s = stage.settings
        self.stage, self.settings, self.progress = stage, s, progress
        env = make_env(s.environment, s.options, end_penalty=s.end_penalty)
        self.kept = Experience.empty(env, s.episodes, stage.seed * 100_003 % 2**30)
        inputs = self.kept.observations.shape[1] + self.kept.actions.shape[1]
        self.nets = RewardNets(inputs, s.members, stage.seed)
        self.known = Comparisons.none()
        self.env = Recorded(env, self.kept, true_reward)
        self.learner = Learner(self.env, s, stage.seed)
        self.rows = Kept(stage.folder.path)
        self.checkpoints = CheckpointStore(stage.folder.path / "checkpoints")
        self.asked = schedule(s.comparisons, s.rounds, s.first_comparisons)
        self.last: dict[str, float] = {}

    def run(self, resume: bool) -> None:
        """Play every round that is not done.

        Raises:
            Pending: people have to compare clips first; all before is saved.
            RunStopped: the run was asked to stop; the rounds that are done are saved.
        """
        start = self._restore() if resume else self._begin()
        for number in range(start, self.settings.rounds):
            try:
                self.stage.stop.check()
                self._round(number)
            except RunStopped as stopped:
                done = f"{number} of {self.settings.rounds} rounds are saved"
                raise RunStopped(done, stopped.signal) from None
            self._save(number + 1)
        self.rows.finish()

    def _begin(self) -> int:
        """Play at random."""
        self.rows.reset()
        self.learner.round(0, self.settings.first_episodes, self._watch("random play"))
        self.nets.standardise(torch.from_numpy(self.kept.inputs()))
        self._save(0)
        return 0

    def _round(self, number: int) -> None:
        began, s = time.monotonic(), self.settings
        row = self._compared(number) if s.reward == "comparisons" else {}
        self.env.reward = self._reward(number)
        episodes = min(s.round_episodes, s.episodes - self.kept.episodes)
        self.learner.round(number + 1, episodes, self._watch("episodes"))
        played = slice(-episodes * self.kept.length, None)
        true = self.kept.rewards[: self.kept.count][played]
        trained = self.env.reward(self.kept.inputs()[played], true)
        if s.reward == "comparisons":
            row["correlation"] = _correlation(trained, true)
        self.last = {
            "reward": float(trained.reshape(episodes, -1).sum(1).mean()),
            "gold": float(true.reshape(episodes, -1).sum(1).mean()),
            "episodes": float(self.kept.episodes),
            **row,
        }
        place = {"step": number + 1, "iteration": number + 1}
        more = {"updates": float(self.learner.updates), "seconds": time.monotonic() - began}
        self.rows.metrics.append({**place, **self.last, **more})
        self.progress.update(number + 1, self.last)

    def _reward(self, number: int) -> StepReward:
        if self.settings.reward == "truth":
            return true_reward
        if self.settings.reward == "random":
            return Noise(self.stage.seed * 1009 + number)
        return Learned(self.nets)

    def _compared(self, number: int) -> dict[str, float]:
        """Have clips compared and fit the nets to all comparisons; the round's figures."""
        s, stage = self.settings, self.stage
        inputs, told = torch.from_numpy(self.kept.inputs()), len(self.known)
        rng = np.random.default_rng([stage.seed, number])
        new = s.round_episodes if number else s.first_episodes
        pairs = choose(self.nets, inputs, self.kept, min(new, self.kept.episodes),
                       self.asked[number], s.clip_steps, s.candidates, rng,
                       self.known.pairs)  # fmt: skip
        if pairs:
            campaign = f"{stage.recipe.name}/{stage.folder.path.name}"
            said = Desk(stage.store, campaign, s, stage.seed).ask(self.kept, pairs, number)
            answered = [(pair, p) for pair, p in zip(pairs, said, strict=True) if p is not None]
            self.known.add([pair for pair, _ in answered], [p for _, p in answered])
        if not len(self.known):
            raise RunError("nobody compared a single pair of clips: there is nothing to fit")
        found = fit(self.nets, inputs, self.known, s.clip_steps, error=s.assumed_error,
                    updates=s.fit_updates, seed=stage.seed, place=number)  # fmt: skip
        spread = self.nets.rewards(inputs).std(0, unbiased=False).mean()
        ties = (self.known.preferred[told:] == 0.5).float()
        return {"comparisons": float(len(self.known)),
                "ties": float(ties.sum() / max(1, len(ties))), "loss": found.loss,
                "held_out_loss": found.held_out, "accuracy": found.accuracy,
                "disagreement": float(spread)}  # fmt: skip

    def _watch(self, phase: str) -> Any:
        return self.stage.watched(self.progress, phase)

    # -- what is saved ----------------------------------------------------------------------------

    @property
    def _parameters(self) -> dict[str, torch.Tensor]:
        own = {f"policy.{k}": v for k, v in self.learner.parameters.items()}
        return own | {f"reward.{k}": v for k, v in self.nets.state_dict().items()}

    def _save(self, number: int) -> None:
        """A checkpoint of the state after so many rounds."""
        kept = {name: torch.from_numpy(getattr(self.kept, name)[: self.kept.count])
                for name in _ARRAYS}  # fmt: skip
        state = {
            "learner": self.learner.state(),
            "kept": kept,
            "known": {name: getattr(self.known, name) for name in _PAIRS},
            "rows": self.rows.marks(),
            "last": self.last,
        }
        self.checkpoints.save(
            number,
            parameters=self._parameters,
            optimizer=self.learner.optimizers["critic"],
            state=state,
        )

    def _restore(self) -> int:
        """Go on from the newest checkpoint; from the beginning where there is none."""
        number = self.checkpoints.latest()
        if number is None:
            return self._begin()
        state = self.checkpoints.load(number, self._parameters, self.learner.optimizers["critic"])
        self.learner.restore(state["learner"])
        for name, values in state["kept"].items():
            getattr(self.kept, name)[: len(values)] = values.numpy()
            self.kept.count = len(values)
        self.known = Comparisons(**state["known"])
        self.rows.restore(state["rows"])
        self.last = dict(state["last"])
        self.progress.resume(number)
        return number

    def save_models(self, folder: Path) -> None:
        """The policy's and the reward nets' weights, as safetensors."""
        from safetensors.torch import save_file

        parts: dict[str, Mapping[str, torch.Tensor]] = {"policy": self.learner.parameters}
        if self.settings.reward == "comparisons":
            parts["reward"] = self.nets.state_dict()
        with write_folder(folder) as tmp:
            for name, tensors in parts.items():
                save_file(plain_tensors(tensors), tmp / f"{name}.safetensors")

    def close(self) -> None:
        """Let go of the environment and the files."""
        self.rows.close()
        self.env.close()


_ARRAYS = ("observations", "next_observations", "actions", "rewards")
_PAIRS = ("first", "second", "preferred")


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's, 0 where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
