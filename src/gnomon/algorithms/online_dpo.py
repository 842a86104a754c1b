"""DPO on the policy's own responses, in rounds (on-line and iterative DPO).

    prompts -> K responses -> a judge -> pairs -> reference log-probs -> minibatches

Xiong et al. 2023, "Iterative preference learning from human feedback" (arXiv:2312.11456); Guo et
al. 2024, "Direct language model alignment from online AI feedback" (arXiv:2402.04792); so train
Llama 3 (arXiv:2407.21783, section 4.1) and Tulu 3. A round is one iteration of the loop: with many
prompts and several epochs it is iterative DPO, with few prompts and one step it is on-line DPO. The
losses stand in ``gnomon.losses.dpo``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gnomon.algorithms.base import Experience, Ingredients, Settings
from gnomon.algorithms.dpo import DPOLoss
from gnomon.algorithms.on_policy import Annotated, OnPolicy
from gnomon.algorithms.on_policy_settings import OnlineDPOSettings
from gnomon.algorithms.reference import RoundReference
from gnomon.algorithms.replay import Replay
from gnomon.algorithms.rollouts import Rollout, spread_metrics
from gnomon.algorithms.sampled_pairs import PairMaking
from gnomon.records import TokenGroup


class OnlineDPO(DPOLoss, OnPolicy):
    """On-line DPO: sample, judge, pair, and learn from the pairs as DPO does."""

    name: ClassVar[str] = "online_dpo"
    Settings: ClassVar[type[Settings]] = OnlineDPOSettings
    needs: ClassVar[tuple[str, ...]] = ("policy", "reference")
    min_samples: ClassVar[int] = 2

    @classmethod
    def stale_problem(cls, settings: Any) -> str | None:
        return None  # DPO learns from pairs, whoever wrote them

    def __init__(self, ingredients: Ingredients, settings: OnlineDPOSettings) -> None:
        super().__init__(ingredients, settings)
        self.reference: RoundReference = RoundReference(
            ingredients, settings.refresh_reference, per_token=settings.length_desensitise < 1
        )
        self.replay = Replay(settings.replay, settings.replay_rounds, ingredients.seed)
        self.iteration = 0
        self._fresh: Sequence[TokenGroup] = ()
        self.pair_making = PairMaking(
            settings.pairs,
            settings.tie_margin,
            settings.no_eos_penalty,
            whole=settings.loss == "plackett_luce",
        )

    @classmethod
    def roles_for(cls, settings: Any) -> tuple[str, ...]:
        return ("policy",) if settings.refresh_reference == 1 else cls.needs

    def experience(self, iteration: int) -> Experience:
        self.iteration = iteration
        return super().experience(iteration)

    def learnable(self, rollouts: Sequence[Rollout], iteration: int) -> Annotated:
        made = [
            self.pair_making.group(rollout, f"{iteration}:{i}")
            for i, rollout in enumerate(rollouts)
        ]
        groups = [group for group, _ in made if group is not None]
        metrics = spread_metrics(rollouts) | {
            "pairs": float(sum(len(g.comparisons) for g in groups)),
            "ties_dropped": float(sum(ties for _, ties in made)),
            "prompts_used": len(groups) / len(rollouts),
        }
        return Annotated(groups, metrics)

    def annotate(self, groups: Sequence[TokenGroup], temperature: float) -> Annotated:
        replayed = self.replay.draw(len(groups), self.iteration)
        self._fresh = groups
        metrics = {"replayed": float(len(replayed))} if self.settings.replay else {}
        return Annotated(self.reference.annotate([*groups, *replayed]), metrics)

    def end_iteration(self, metrics: Mapping[str, float]) -> None:
        self.reference.after_round(self.iteration)
        self.replay.add(self._fresh)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "reference": self.reference.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.reference.load_state_dict(state["reference"])
        self.replay.load_state_dict(state["replay"])
