"""A method at work on a stage's data: what the loop drives.

source    gives an iteration's groups, or samples and judges them
method    credits them and has the loss
text      pretraining documents may share a step (SFT's replay, PPO-ptx)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import nn

from gnomon.algorithms.base import Algorithm, Credit, Evaluation, LossOutput, Step, Workbench
from gnomon.algorithms.metric import Metric, mean
from gnomon.algorithms.offline_settings import TextMixSettings
from gnomon.data.batch import Batch, Sampler
from gnomon.errors import RunError
from gnomon.losses.reduce import Totals, masked_sum
from gnomon.models.counting import TokenCounts, counting
from gnomon.models.instants import SAMPLING, instant
from gnomon.records import TokenGroup


@dataclass(frozen=True)
class Minibatch:
    """The groups of one optimizer step, and pretraining text that shares it.

    Groups that are not trained on count in the step's normalisers all the same.
    """

    groups: Sequence[TokenGroup]
    text: Sequence[TokenGroup] = ()

    @property
    def trained(self) -> list[TokenGroup]:
        """The groups that a forward pass is spent on."""
        return [group for group in self.groups if group.trained and group.weight]

    def totals(self) -> Totals:
        """The step's normalisers."""
        return Totals.of(self.groups, self.text)


@dataclass(frozen=True)
class Drawn:
    """An iteration's groups, as given or as sampled and judged, and what was seen on the way.

    Attributes:
        tokens: what sampling the groups computed.
    """

    groups: Sequence[Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    tokens: TokenCounts = field(default_factory=TokenCounts)


@dataclass(frozen=True)
class Experience:
    """One iteration's work: an optimizer step per minibatch, with what was seen on the way."""

    step: Step
    minibatches: Sequence[Minibatch]
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    carried: Any = None
    tokens: TokenCounts = field(default_factory=TokenCounts)


class Source(Protocol):
    """Where a stage's groups come from."""

    def step(self, iteration: int) -> Step:
        """Where the run is."""
        ...

    def draw(self, step: Step) -> Drawn:
        """An iteration's groups; fixed by the weights and the seed."""
        ...

    def split(self, credit: Credit, step: Step) -> list[tuple[int, Sequence[TokenGroup]]]:
        """The groups of each optimizer step of the iteration, with the step's number."""
        ...

    def evaluate(self) -> Evaluation:
        """Held-out results, from the method or from the policy's own answers."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Learner:
    """A method, its models and its data, as one thing to train.

    Args:
        algorithm: the method.
        source: of its groups.
        text: pretraining documents to mix in, one group each.
    """

    def __init__(
        self, algorithm: Algorithm, source: Source, text: Sequence[TokenGroup] = ()
    ) -> None:
        self.algorithm = algorithm
        self.source = source
        self.bench: Workbench = algorithm.bench
        self.roles = algorithm.bench.roles
        self.name = algorithm.bench.method
        self._text = text
        mix = algorithm.settings if isinstance(algorithm.settings, TextMixSettings) else None
        self.text_coef = mix.pretraining_coef if mix is not None else 0.0
        self._text_sampler = (
            Sampler(len(text), mix.pretraining_batch, self.bench.seed + 1)
            if text and mix is not None
            else None
        )

    def experience(self, iteration: int) -> Experience:
        """What iteration ``iteration`` (from 0) trains on; fixed by the weights and the seed."""
        step = self.source.step(iteration)
        with counting(), instant(SAMPLING):  # another thread may sample: the source counts that
            drawn = self.source.draw(step)
        credit = self.algorithm.credit(drawn.groups, step)
        if not isinstance(credit, Credit):
            raise self._wrong("credit", credit, "a Credit(groups, metrics)")
        minibatches = [
            Minibatch(groups, self._text_for(number, step) if groups else [])
            for number, groups in self.source.split(credit, step)
        ]
        metrics = {**drawn.metrics, **credit.metrics}
        return Experience(step, minibatches, metrics, drawn.samples, credit.carried, drawn.tokens)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        """The micro-batch's share of the step's loss.

        Raises:
            RunError: the method's loss gives something else.
        """
        output = self.algorithm.loss(batch, step)
        if not isinstance(output, LossOutput):
            raise self._wrong("loss", output, "a LossOutput(loss, metrics)")
        for name, metric in output.metrics.items():
            if not isinstance(metric, Metric):
                raise self._wrong(f"loss, metric {name!r}:", metric, "a Metric (mean(values))")
        return output

    def _wrong(self, what: str, given: Any, wanted: str) -> RunError:
        return RunError(f"{self.name}: {what} gave a {type(given).__name__}; it has to be {wanted}")

    def text_loss(self, batch: Batch, step: Step) -> LossOutput:
        """The language-model loss on pretraining text, per token (InstructGPT's ptx term)."""
        logprobs = self.roles["policy"].logprobs(batch).logprobs
        nll = -masked_sum(logprobs, batch.response_mask)
        return LossOutput(
            self.text_coef * nll / step.totals.text_tokens,
            {"text_loss": mean(-logprobs, batch.response_mask)},
        )

    def step_of(self, experience: Experience, totals: Totals) -> Step:
        """The iteration's step with the normalisers of one optimizer step."""
        return replace(experience.step, totals=totals)

    def evaluate(self) -> Evaluation:
        """Held-out results, dropout off."""
        return self.source.evaluate()

    def end_iteration(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        """Tell the method that the iteration's steps are done."""
        self.algorithm.end_iteration(experience.step, metrics, experience.carried)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Everything that is trained, each parameter once, under stable names."""
        named: dict[str, nn.Parameter] = {}
        for role in self.roles.values():
            named.update(role.named_parameters())
        return list(named.items())

    @property
    def precision(self) -> str:
        """What it is trained in."""
        return next(iter(self.roles.values())).trunk.precision.name

    def train_mode(self, training: bool) -> None:
        """Switch dropout of the trained roles on or off."""
        for role in self.roles.values():
            role.train(training and self.algorithm.dropout)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the weights."""
        return {"method": self.algorithm.state_dict(), "source": self.source.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.algorithm.load_state_dict(state["method"])
        self.source.load_state_dict(state["source"])

    def _text_for(self, number: int, step: Step) -> list[TokenGroup]:
        """The documents mixed into optimizer step ``number``."""
        if self._text_sampler is None or not self.text_coef:
            return []
        if not self.algorithm.trains_policy(step):
            return []
        return [self._text[i] for i in self._text_sampler.batch(number)]


class GivenSource:
    """Groups from data, an iteration's drawn by the seed.

    Args:
        algorithm: sees the data before the first step (:meth:`Algorithm.begin`).
        groups, held_out: to train on, and to evaluate on.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        groups: Sequence[TokenGroup],
        held_out: Sequence[TokenGroup] = (),
    ) -> None:
        self.algorithm = algorithm
        self.groups = algorithm.begin(groups, training=True)
        self.held_out = algorithm.begin(held_out, training=False)
        bench = algorithm.bench
        self.sampler = Sampler(len(self.groups), bench.batch_size, bench.seed)

    def step(self, iteration: int) -> Step:
        return Step(iteration)

    def draw(self, step: Step) -> Drawn:
        return Drawn([self.groups[i] for i in self.sampler.batch(step.iteration)])

    def split(self, credit: Credit, step: Step) -> list[tuple[int, Sequence[TokenGroup]]]:
        return [(step.iteration, credit.groups)]

    def evaluate(self) -> Evaluation:
        return self.algorithm.evaluate(self.held_out)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing to restore."""

    def close(self) -> None:
        """There is nothing to close."""
