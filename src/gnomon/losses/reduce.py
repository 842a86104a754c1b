"""From unreduced losses to one number, with the whole step's denominator.

Losses in this package return one value per token [R], per response [S] or per comparison [C]. They
are summed here and divided by a denominator that the caller computed over the *whole optimiser
step* before splitting it, so the losses of its micro-batches add up to the step's loss, and any
split gives the same gradient.

Masked entries are left out, not multiplied by 0: a NaN loss there does not reach the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnomon.losses.names import Aggregation
from gnomon.records import TokenGroup


@dataclass(frozen=True)
class Totals:
    """Normalisers of one optimizer step, counted over the whole of it before it is split.

    Dividing by these, and not by a micro-batch's own counts, makes the gradient the same however
    the step is split, and on however many processes.

    Attributes:
        groups, responses, tokens: each times its group's weight; tokens are those that count.
        answered: responses with at least one token that counts.
        text_tokens: of the pretraining text.
    """

    groups: float = 1.0
    responses: float = 1.0
    tokens: float = 1.0
    answered: float = 1.0
    text_tokens: float = 1.0

    @classmethod
    def of(cls, groups: Sequence[TokenGroup], text: Sequence[TokenGroup] = ()) -> Totals:
        """Count a step's groups, those that are not trained on included.

        A count of 0 becomes 1: what is divided by it is 0 too, and stays 0.
        """
        lengths = [(g.weight, sum(map(bool, r.mask))) for g in groups for r in g.responses]
        counts = {
            "groups": sum(g.weight for g in groups),
            "responses": sum(weight for weight, _ in lengths),
            "tokens": sum(weight * length for weight, length in lengths),
            "answered": sum(weight for weight, length in lengths if length),
            "text_tokens": sum(sum(sum(r.mask) for r in g.responses) for g in text),
        }
        return cls(**{name: float(count) or 1.0 for name, count in counts.items()})

    def denominator(self, mode: Aggregation, max_length: int | None = None) -> float:
        """What :func:`aggregate` divides a step's token losses by.

        Args:
            mode: "token": the tokens that count. "sequence": the responses that have any.
                "constant": responses times ``max_length``, whatever was generated (Dr. GRPO, Liu
                et al. 2025, arXiv:2503.20783, which removes the length bias).
            max_length: the token budget of a response; only for "constant".

        Raises:
            ValueError: an unknown mode, or "constant" without a budget.
        """
        if mode == "token":
            return self.tokens
        if mode == "sequence":
            return self.answered
        if mode != "constant":
            raise ValueError(f"unknown aggregation {mode!r}: use token, sequence or constant")
        if max_length is None or max_length < 1:
            raise ValueError(f'mode "constant" needs max_length >= 1, got {max_length}')
        return self.responses * max_length


def require_same_shape(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all given tensors have one shape.

    Broadcasting [C] against [C, 1] would quietly make a [C, C] loss; losses refuse it instead.
    """
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if t is not None}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must be equal: {listed}")


def _wide(values: Tensor) -> Tensor:
    """Half-precision values as float32, since long sums lose too much in 8 or 11 bits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``values`` where ``mask`` is True; a scalar."""
    require_same_shape(values=values, mask=mask)
    return _wide(values).masked_fill(~mask, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is True; a scalar, 0 when nothing is counted.

    For metrics and whitening. A loss needs :func:`aggregate` with the step's own denominator.
    """
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def segment_sum(values: Tensor, segment_of: Tensor, num_segments: int) -> Tensor:
    """Sums per segment: out[s] = sum of values[i] over i with segment_of[i] = s.

    Args:
        values: [R] (or any [N]).
        segment_of: [R] index of each value's segment, 0..num_segments-1.
        num_segments: S.

    Returns:
        [S]; an empty segment sums to 0.
    """
    require_same_shape(values=values, segment_of=segment_of)
    wide = _wide(values)
    sums = wide.new_zeros(num_segments)
    if wide.is_cuda:  # where index_add adds in no fixed order, so that no two runs are the same
        return sums.index_put((segment_of,), wide, accumulate=True)
    return sums.index_add(0, segment_of, wide)


def response_logprobs(
    logprobs: Tensor, response_mask: Tensor, response_of: Tensor, num_responses: int
) -> Tensor:
    """Each response's log-probability in nats: the sum over its counted tokens.

    Args:
        logprobs: [R] per-token log-probabilities.
        response_mask: [R] bool.
        response_of: [R].
        num_responses: S.

    Returns:
        [S].
    """
    require_same_shape(logprobs=logprobs, response_mask=response_mask)
    return segment_sum(logprobs.masked_fill(~response_mask, 0.0), response_of, num_responses)


def aggregate(
    token_loss: Tensor,
    response_mask: Tensor,
    response_of: Tensor,
    lengths: Tensor,
    *,
    mode: Aggregation,
    denominator: Tensor | float,
) -> Tensor:
    """A micro-batch's share of the step's loss, from its per-token losses.

    - "token": every token of the step weighs the same (DAPO, Yu et al. 2025, eq. 12).
    - "sequence": mean over each response's tokens, then every response weighs the same (GRPO, Shao
      et al. 2024, eq. 3).
    - "constant": the plain sum over a fixed constant (Dr. GRPO).

    Args:
        token_loss: [R].
        response_mask: [R] bool, tokens that count.
        response_of: [R] the response (0..S-1) of each token.
        lengths: [S] counted tokens of each response in this micro-batch.
        mode: see above.
        denominator: from :meth:`Totals.denominator`.

    Returns:
        A scalar. The sum over the step's micro-batches is the step's loss.
    """
    require_same_shape(token_loss=token_loss, response_mask=response_mask, response_of=response_of)
    if mode == "sequence":
        sums = response_logprobs(token_loss, response_mask, response_of, lengths.numel())
        return (sums / lengths.clamp(min=1)).sum() / denominator
    if mode in ("token", "constant"):
        return masked_sum(token_loss, response_mask) / denominator
    raise ValueError(f"unknown aggregation {mode!r}: use token, sequence or constant")


def weighted_sum(values: Tensor, weight: Tensor | None, *, denominator: Tensor | float) -> Tensor:
    """A micro-batch's share of a per-comparison or per-response loss.

    Args:
        values: [C] (or [S]) unreduced losses.
        weight: [C] how much each counts, or None for 1 each. 0 removes an entry, NaN or not.
        denominator: of the whole step: its sum of weights, or its number of prompts when the
            weights come from :func:`group_balanced_weight`.

    Returns:
        A scalar.
    """
    if weight is None:
        return _wide(values).sum() / denominator
    require_same_shape(values=values, weight=weight)
    return (_wide(values).masked_fill(weight == 0, 0.0) * weight).sum() / denominator


def group_balanced_weight(pair_group: Tensor, weight: Tensor, num_groups: int) -> Tensor:
    """Weights that let each prompt count once, however many comparisons it carries.

    InstructGPT's 1 / C(K, 2) (Ouyang et al. 2022, eq. 1): each comparison's weight is divided by
    the number of its prompt's comparisons. A labeller's confidence still scales its own comparison.
    Divide the weighted sum by the step's number of prompts (groups are never split).

    Args:
        pair_group: [C] the group (0..G-1) of each comparison.
        weight: [C] >= 0; comparisons of weight 0 are not counted.
        num_groups: G.

    Returns:
        [C].
    """
    require_same_shape(pair_group=pair_group, weight=weight)
    count = segment_sum((weight > 0).to(weight.dtype), pair_group, num_groups)
    return weight / count.clamp(min=1)[pair_group]
