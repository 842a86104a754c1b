"""What a method is: it declares what it needs, credits groups, and has a loss.

    credit   judged groups -> groups whose tokens carry what the loss needs
    loss     a packed micro-batch -> its share of the step's loss

A method is one class that derives from :class:`Algorithm`, which is a protocol with defaults, and
holds whatever parts it uses (a reference, say). It never sees files, optimizers or the loop. Use it
by name, or from a recipe as ``algorithm: my_method.py:Mine``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from gnomon.algorithms.idle import why_idle
from gnomon.algorithms.metric import Metric, MetricSums
from gnomon.algorithms.offline_settings import Settings as Settings
from gnomon.algorithms.rates import PREFERENCE_LR as PREFERENCE_LR
from gnomon.algorithms.rates import REINFORCEMENT_LR as REINFORCEMENT_LR
from gnomon.algorithms.rates import SUPERVISED_LR as SUPERVISED_LR
from gnomon.data.batch import Batch, microbatches, pack
from gnomon.data.values import Skipped
from gnomon.losses.reduce import Totals, segment_sum
from gnomon.models.counting import counting, recount
from gnomon.models.heads import RewardNormaliser
from gnomon.models.memory import RoleNeed
from gnomon.models.ranks import Ranks, shares
from gnomon.models.roles import Role
from gnomon.recipe.schema import Kind
from gnomon.records import TokenGroup, TokenResponse

POLICY = RoleNeed("policy", trainable=True)


@dataclass(frozen=True)
class Step:
    """Where a run is; a method keeps none of it.

    Attributes:
        iteration: from 0.
        temperature: that responses are sampled at in this iteration.
        totals: of the optimizer step that a loss belongs to.
    """

    iteration: int
    temperature: float = 1.0
    totals: Totals = field(default_factory=Totals)


@dataclass(frozen=True)
class LossOutput:
    """A micro-batch's share of the step's loss, and its metrics, which stay on the device."""

    loss: Tensor
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class Credit:
    """Groups that carry what the loss needs.

    Attributes:
        groups: in the order of the data; one with ``trained`` False only counts in normalisers.
        metrics: what was seen on the way.
        carried: handed to :meth:`Algorithm.end_iteration` once the iteration's steps are done.
    """

    groups: Sequence[TokenGroup]
    metrics: Mapping[str, float] = field(default_factory=dict)
    carried: Any = None


@dataclass(frozen=True)
class Evaluation:
    """Held-out results: flat ``metrics`` for curves, ``details`` for evals.json, sampled rows."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Trained:
    """What a method leaves: a policy, or the members of a reward model.

    Attributes:
        roles: whose weights are saved.
        normaliser: puts a reward model's raw scores on their scale; None for a policy.
        facts: what is saved with the model besides its weights.
    """

    roles: Sequence[Role]
    normaliser: RewardNormaliser | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class ReferenceStore(Protocol):
    """Keeps the reference's log-probs between runs; see ``gnomon.training.reference_cache``."""

    def fetch(
        self,
        groups: Sequence[TokenGroup],
        per_token: bool,
        compute: Callable[[Sequence[TokenGroup]], Tensor],
    ) -> Tensor:
        """[S] sums over counted tokens, or [R] values, of all responses of the groups in order.

        Args:
            compute: gives the [R] log-probs of groups, where nothing is stored for them.
        """
        ...


@dataclass
class Workbench:
    """What a method works with: the models in their roles, and how to run them on groups.

    Attributes:
        roles: by name, those that the method declared.
        method: what the recipe calls the method, for messages.
        seed: of the stage.
        iterations, batch_size: how many iterations the stage runs, of how many groups or prompts.
        samples, longest_response: responses to a prompt, and the most tokens that one may have.
        tokens_per_microbatch: the budget of one forward pass.
        reference_store: keeps the reference's log-probs between runs; without it they are computed
            again.
        normalise_on: demonstrations on which a reward model's mean becomes zero.
        ranks: the processes of the run; all of them hold all groups, and :meth:`shared` and
            :meth:`columns` share their forward passes.
    """

    roles: Mapping[str, Role]
    method: str = "the method"
    seed: int = 0
    iterations: int = 1
    batch_size: int = 1
    samples: int = 1
    longest_response: int = 1
    tokens_per_microbatch: int = 4096
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    reference_store: ReferenceStore | None = None
    normalise_on: Sequence[TokenGroup] = ()
    ranks: Ranks = field(default_factory=Ranks)

    def batches(self, groups: Sequence[TokenGroup]) -> Iterator[Batch]:
        """Pack groups into micro-batches within the token budget, on the stage's device."""
        for part in microbatches(groups, self.tokens_per_microbatch):
            yield pack(part).to(self.device)

    def shared(self, groups: Sequence[TokenGroup]) -> Iterator[tuple[Batch, bool]]:
        """This process's share of the groups as micro-batches, and whether they count: where
        weights are gathered in each forward pass, every process runs as many, and the last of some
        are only for company."""
        ranks = self.ranks
        if ranks.world == 1 or not groups:
            yield from ((batch, True) for batch in self.batches(groups))
            return
        sizes = [group.num_tokens() for group in groups]
        runs = [
            microbatches([groups[i] for i in share], self.tokens_per_microbatch)
            for share in shares(sizes, ranks.world)
        ]
        own = runs[ranks.rank]
        with counting() as counts:
            for part in own:
                yield pack(part).to(self.device), True
        if ranks.in_step:
            smallest = groups[min(range(len(groups)), key=sizes.__getitem__)]
            with counting():
                for _ in range(max(map(len, runs)) - len(own)):
                    yield pack([smallest]).to(self.device), False
        for found in ranks.gather(counts):
            recount(found)

    def columns(
        self,
        groups: Sequence[TokenGroup],
        compute: Callable[[Batch], Mapping[str, Tensor]],
        metrics: Callable[[Batch, Mapping[str, Tensor]], Mapping[str, Metric]] | None = None,
        sums: MetricSums | None = None,
    ) -> dict[str, Tensor]:
        """Run ``compute`` on packed micro-batches and join its [R] columns over all groups.

        They stay on the device until the last micro-batch is done; then one transfer brings them
        all to the CPU.

        Args:
            metrics: of a micro-batch and its columns, added to ``sums``.
        """
        seen = MetricSums()
        columns: dict[str, list[Tensor]] = {}
        for batch, counts in self.shared(groups):
            found = compute(batch)
            if not counts:
                continue
            if metrics is not None:
                seen.add(metrics(batch, found))
            for name, values in found.items():
                columns.setdefault(name, []).append(values.detach().float())
        joined: dict[str, Tensor] = {}
        if columns:
            whole = torch.stack([torch.cat(parts) for parts in columns.values()]).cpu()
            joined = dict(zip(columns, whole.unbind(), strict=True))
        if self.ranks.world > 1:
            joined = self._from_all(groups, joined)
        if sums is not None:
            for other in self.ranks.gather(seen):
                sums.merge(other)
        return joined

    def _from_all(
        self, groups: Sequence[TokenGroup], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Everybody's columns, in the order of the groups."""
        lengths = [sum(len(r.ids) for r in g.responses) for g in groups]
        order = shares([g.num_tokens() for g in groups], self.ranks.world)
        parts: dict[str, dict[int, Tensor]] = {}
        for share, found in zip(order, self.ranks.gather(dict(own)), strict=True):
            for name, values in found.items():
                cut = torch.split(values, [lengths[i] for i in share])
                parts.setdefault(name, {}).update(zip(share, cut, strict=True))
        everyone = range(len(groups))
        return {name: torch.cat([cut[i] for i in everyone]) for name, cut in parts.items()}


class Algorithm:
    """A protocol with defaults: what the loop asks of a method.

    Class attributes:
        summary: one line for lists; for gnomon's own methods it is in ``registry.py``.
        Settings: the method's own settings.
        data: what its rows must be; with "prompts" the policy is sampled and judged.
        produces: what its model folder holds.
        base_lr: what ``lr: auto`` starts from: the field's rate at 7e9 parameters.
        metrics: names of what it logs; no reward may have one of them.
        dropout: whether the trained roles run with dropout in the loss.
        rewarded: with data "prompts", whether it learns from a reward; without one, what the policy
            writes is judged by observers alone.
    """

    summary: ClassVar[str] = ""
    Settings: ClassVar[type[Settings]] = Settings
    data: ClassVar[Kind]
    produces: ClassVar[Literal["policy", "reward_model"]] = "policy"
    base_lr: ClassVar[float | None] = None
    metrics: ClassVar[tuple[str, ...]] = ()
    dropout: ClassVar[bool] = True
    rewarded: ClassVar[bool] = True

    def __init__(self, settings: Any, bench: Workbench) -> None:
        self.settings = settings
        self.bench = bench
        self.roles = bench.roles

    # -- what it declares -------------------------------------------------------------------------

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        """The roles it uses with these settings; the first trained one is saved."""
        return (POLICY,)

    @classmethod
    def prepare(
        cls, groups: Sequence[TokenGroup], settings: Any, training: bool = True
    ) -> tuple[list[TokenGroup], list[Skipped]]:
        """The groups it can learn from (``training``) or be evaluated on, and what it leaves out.

        Raises:
            DataError: the data as a whole cannot be learned from.
        """
        return list(groups), []

    @classmethod
    def refuses_older_weights(cls, settings: Any) -> str | None:
        """Why it cannot learn from responses that older weights wrote; None if it can, which a
        method has to declare."""
        return f"{cls.__name__} is not made to learn from responses of older weights"

    @classmethod
    def least_samples(cls, settings: Any) -> int:
        """The fewest responses to a prompt that it can learn from; above 1, only differences
        between responses to the same prompt teach anything."""
        return 1

    @classmethod
    def only_temperature(cls, settings: Any) -> tuple[float, str] | None:
        """The one sampling temperature that it can learn at, and why; None: any."""
        return None

    # -- what it does -----------------------------------------------------------------------------

    def begin(self, groups: Sequence[TokenGroup], training: bool) -> Sequence[TokenGroup]:
        """The given groups with what is needed before the first step (the reference's log-probs,
        say); held-out ones come after the training ones."""
        return groups

    def credit(self, groups: Sequence[Any], step: Step) -> Credit:
        """Turn an iteration's groups into what the loss needs; fixed by the weights and the seed.

        Args:
            groups: given groups of tokens, or, where the policy is sampled, one
                :class:`~gnomon.algorithms.rollouts.Rollout` for each prompt.
        """
        return Credit(groups)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        """The micro-batch's share of the step's loss, already divided by ``step.totals``."""
        raise NotImplementedError

    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        """Results on held-out groups; where the policy is sampled, the stage computes them."""
        return Evaluation()

    def trains_policy(self, step: Step) -> bool:
        """Whether this iteration trains the policy, so that pretraining text may be mixed in."""
        return True

    def spare_rounds(self) -> int:
        """Rounds of further prompts that may be sampled in place of wasted ones."""
        return 0

    def is_wasted(self, group: Any) -> bool:
        """Whether a rollout teaches nothing, so that another prompt is wanted in its place."""
        return False

    def end_iteration(self, step: Step, metrics: Mapping[str, float], carried: Any) -> None:
        """Called after an iteration's steps, with its row of metrics and what credit carried."""

    def result(self) -> Trained:
        """What is saved when the stage ends."""
        return Trained((self.roles["policy"],))

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers beyond the weights: JSON and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""

    def why_idle(self, metrics: Mapping[str, float]) -> str | None:
        """Why an iteration trained nothing, judged by its row of metrics; None where it did."""
        return why_idle(metrics)


def with_tokens(groups: Sequence[TokenGroup], columns: Mapping[str, Tensor]) -> list[TokenGroup]:
    """The groups with [R] columns cut up again and added to each response's ``token``."""
    out: list[TokenGroup] = []
    at = 0
    for group in groups:
        responses: list[TokenResponse] = []
        for response in group.responses:
            end = at + len(response.ids)
            added = {name: values[at:end] for name, values in columns.items()}
            responses.append(replace(response, token={**response.token, **added}))
            at = end
        out.append(replace(group, responses=tuple(responses)))
    return out


def per_response_sum(values: Tensor, batch: Batch) -> Tensor:
    """[S] sums of [R] values."""
    return segment_sum(values, batch.response_of, batch.num_responses)


def token_weight(batch: Batch) -> Tensor:
    """[R] the group's weight at counted response tokens, 0 elsewhere."""
    weight = batch.group_weight[batch.group_of[batch.response_of]]
    return weight * batch.response_mask


def trained_weights(role: Role) -> dict[str, Tensor]:
    """A role's adapter, or all its weights where it has none, under names that roles share."""
    if role.adapter is not None:
        return dict(role.trunk.adapter_parameters(role.adapter))
    return dict(role.trunk.model.named_parameters())


def responses_of(groups: Iterable[TokenGroup]) -> list[TokenResponse]:
    """All responses of groups, in order."""
    return [response for group in groups for response in group.responses]
