"""The one batch type: groups laid end to end, with no padding.

Layout of N packed tokens: for each group its prompt, then its responses one after another. The
prompt is written once and shared; a token attends to token j <= i of its own group if j belongs to
the prompt (branch 0) or to its own response (same branch). Positions restart at the prompt's end
for each response, so every response sees exactly what it would see alone.

    group      0 0 0 0 0 0 0 0 1 1 1 1 1
    branch     0 0 0 1 1 1 2 2 0 0 1 1 1
    position   0 1 2 3 4 5 3 4 0 1 2 3 4

Two index sets are kept: packed positions (N of them), and response tokens (R of them, the tokens of
all responses in order). Per-token values of losses live on response tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Where one group lies among the packed tokens: the prompt and then each response.

    ``prompt`` is (start, end) of the shared prompt; ``responses`` the (start, end) of each
    response, contiguous and in order, the first starting where the prompt ends.
    """

    prompt: tuple[int, int]
    responses: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        return self.responses[-1][1] if self.responses else self.prompt[1]


@dataclass(frozen=True, eq=False)
class Batch:
    """A packed micro-batch of G groups, S responses, R response tokens and N packed tokens.

    Attributes:
        input_ids: [N] token ids.
        position_ids: [N] position within the group's conversation.
        group_of_token: [N] which group a packed token belongs to.
        branch: [N] 0 for prompt tokens, k = 1..K for the group's k-th response.
        segments: the same as ranges, for attention kernels that work range by range.
        target_index: [R] packed position of each response token.
        source_index: [R] packed position whose hidden state predicts it (the token before it in its
            own conversation: the prompt's last token for a response's first).
        targets: [R] token ids of the response tokens (= input_ids[target_index]).
        response_of: [R] which response (0..S-1) a response token belongs to.
        response_mask: [R] bool, True where the token counts in a loss.
        response_start: [S + 1] offsets of each response among the R response tokens.
        last_index: [S] packed position of each response's last token (where a reward is read).
        lengths: [S] number of counted tokens (mask True) in each response.
        group_of: [S] which group (0..G-1) each response belongs to.
        group_weight: [G] float.
        pairs: [C, 2] response indices (0..S-1) of (better, worse).
        pair_weight, pair_margin: [C] float.  pair_tie: [C] bool.  pair_group: [C] group index.
        token: named [R] float tensors gathered from ``TokenResponse.token``.
        scalar: named [S] float tensors gathered from ``TokenResponse.scalar``.
        group_ids: the groups' ids, for error messages and samples.
    """

    input_ids: Tensor
    position_ids: Tensor
    group_of_token: Tensor
    branch: Tensor
    segments: tuple[Segment, ...]
    target_index: Tensor
    source_index: Tensor
    targets: Tensor
    response_of: Tensor
    response_mask: Tensor
    response_start: Tensor
    last_index: Tensor
    lengths: Tensor
    group_of: Tensor
    group_weight: Tensor
    pairs: Tensor
    pair_weight: Tensor
    pair_margin: Tensor
    pair_tie: Tensor
    pair_group: Tensor
    token: Mapping[str, Tensor]
    scalar: Mapping[str, Tensor]
    group_ids: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids.numel())

    @property
    def num_groups(self) -> int:
        return len(self.group_ids)

    @property
    def num_responses(self) -> int:
        return int(self.lengths.numel())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on ``device``; ``self`` when they are there already."""
        if self.input_ids.device == torch.device(device):
            return self
        moved: dict[str, Tensor | dict[str, Tensor]] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = value.to(device, non_blocking=non_blocking)
            elif isinstance(value, Mapping):
                moved[f.name] = {
                    k: v.to(device, non_blocking=non_blocking) for k, v in value.items()
                }
        return replace(self, **moved)  # type: ignore[arg-type]
