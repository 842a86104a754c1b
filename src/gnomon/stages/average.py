"""The ``average`` stage: a policy whose weights are the average of several policies'. It trains
nothing; of policies trained with LoRA the merged weights are averaged, so it is exact for them."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.errors import ConfigError
from gnomon.models.average import merge_step
from gnomon.models.load import LoadedModel, load_causal_lm
from gnomon.models.memory import RoleNeed
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import save_policy
from gnomon.stages.names import other_model
from gnomon.stages.other_models import check_model
from gnomon.stages.roles import check_same_tokens
from gnomon.stages.untrained import Untrained


class Average(Untrained):
    """Averages policies; see :class:`~gnomon.algorithms.average_settings.AverageSettings`."""

    reads: ClassVar[str] = "an average stage reads settings.models"
    unused: ClassVar[tuple[str, ...]] = ("from_", "probes")

    def iterations(self, rows: int) -> int:
        return len(self.settings.models)

    @property
    def dtype(self) -> str:
        return self.precision.trained  # means are as exact as trained weights

    def start_model(self) -> str:
        return self._place(self.settings.models[0])

    def check(self) -> None:
        super().check()
        s = self.settings
        for name in (*s.models, *([] if s.init is None else [s.init])):
            check_model(self, RoleNeed("model"), name)

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        s = self.settings
        weights = s.weights or [1.0] * len(s.models)
        shares = [w / total for w, total in zip(weights, accumulate(weights), strict=True)]
        starts = {} if s.init is None else self._weights(s.init, loaded)
        merged = {name: p.detach().float() for name, p in loaded.model.named_parameters()}
        with self.progress(len(s.models)) as progress:
            for done, (name, share) in enumerate(zip(s.models, shares, strict=True), start=1):
                self.stop.check("before it was averaged: nothing is saved yet")
                if done > 1:
                    other = self._weights(name, loaded)
                    merged = {
                        key: merge_step(value, other[key], share, s.how, starts.get(key))
                        for key, value in merged.items()
                    }
                progress.update(done, {})
        if s.init_share:
            merged = {k: torch.lerp(v, starts[k].float(), s.init_share) for k, v in merged.items()}
        with torch.no_grad():
            for key, parameter in loaded.model.named_parameters():
                parameter.copy_(merged[key])
        facts = {"algorithm": self.spec.algorithm, "base": loaded.source, "averaged": s.models}
        save_policy(self.folder.model, Role("policy", Trunk.from_loaded(loaded)), facts=facts)
        return {"iterations": len(s.models)}

    def _weights(self, name: str, first: LoadedModel) -> dict[str, Tensor]:
        """A model's parameters.

        Raises:
            ConfigError: they are of another shape than the first model's, or have other tokens.
        """
        other = load_causal_lm(self._place(name), dtype=self.dtype, device=self.device)
        check_same_tokens("model", name, other.tokenizer, first.tokenizer)
        found = {key: p.detach() for key, p in other.model.named_parameters()}
        shapes = {key: p.shape for key, p in first.model.named_parameters()}
        odd = [key for key in {**shapes, **found} if shapes.get(key) != _shape(found.get(key))]
        if odd:
            raise ConfigError(
                f"model {name!r} cannot be averaged with {self.settings.models[0]!r}: they are of "
                f"different architectures ({odd[0]} differs)"
            )
        return found

    def _place(self, name: str) -> str:
        return other_model(self.recipe, self.run, self.base, name)


def _shape(weight: Tensor | None) -> torch.Size | None:
    return None if weight is None else weight.shape
