"""The reward that a policy implies: log pi(y|x) - log pi_ref(y|x) (Rafailov et al. 2023, "Direct
Preference Optimization", eq. 5), as a judge."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.errors import ConfigError, DataError
from gnomon.evals.likelihood import response_logprobs
from gnomon.evals.subject import Model
from gnomon.judges.learned import reads_tokens_of
from gnomon.judges.protocol import Judge
from gnomon.records import Group, Judgement, Score, TokenGroup


class ImplicitReward(Judge):
    """Scores responses by how much likelier the policy finds them than the reference, in nats.

    Args:
        policy, reference: two models with the same tokenizer.
        per_token: divide by the response's tokens.

    Raises:
        ConfigError: their tokenizers differ, so that their log-probabilities are of different
            tokens.
    """

    def __init__(self, policy: Model, reference: Model | None, per_token: bool = False) -> None:
        self.name = "implicit_reward" if reference else "likelihood"
        self.version = policy.sha256
        self.policy, self.reference, self.per_token = policy, reference, per_token
        if reference is None:
            return
        self.version += f" over {reference.sha256}"
        own, theirs = policy.role().trunk.tokenizer, reference.role().trunk.tokenizer
        if not (reads_tokens_of(own, theirs) and reads_tokens_of(theirs, own)):
            raise ConfigError(
                f"the policy {policy.name} and the reference {reference.name} have different "
                f"tokenizers ({len(own)} and {len(theirs)} tokens), so that their "
                "log-probabilities are of different tokens; give the model that the policy was "
                "trained from"
            )

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        encoded: list[TokenGroup | str] = []
        for group in groups:
            try:
                encoded.append(self.policy.encoder.encode_group(group))
            except DataError as error:
                encoded.append(str(error))
        good = [e for e in encoded if not isinstance(e, str)]
        own = response_logprobs(self.policy.role(), good)
        theirs = (
            [[0.0] * len(row) for row in own]
            if self.reference is None
            else response_logprobs(self.reference.role(), good)
        )
        values = iter(zip(good, own, theirs, strict=True))
        out = []
        for item in encoded:
            if isinstance(item, str):
                out.append(Judgement(self.name, version=self.version, error=item))
                continue
            tokens, mine, base = next(values)
            counts = [sum(r.mask) if self.per_token else 1 for r in tokens.responses]
            scores = [
                Score((a - b) / max(1, n)) for a, b, n in zip(mine, base, counts, strict=True)
            ]
            out.append(Judgement(self.name, tuple(scores), version=self.version))
        return out
