"""How vLLM's workers take the policy's weights from memory; only vLLM imports this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from gnomon.rollout import vllm_worker
from gnomon.rollout.links import Inlet
from gnomon.rollout.transfer import sums_of


@dataclass
class PolicyInit(WeightTransferInitInfo):  # type: ignore[misc]
    """What an outlet says of itself (:attr:`gnomon.rollout.links.Outlet.info`)."""

    info: dict[str, Any]


@dataclass
class PolicyBucket(WeightTransferUpdateInfo):  # type: ignore[misc]
    """What an inlet is told of a bucket."""

    bucket: dict[str, Any]


class PolicyTransfer(WeightTransferEngine[PolicyInit, PolicyBucket]):  # type: ignore[misc]
    """A worker's end of a transfer.

    Attributes:
        sums: of the tensors of the last update, as they arrived.
        under_way: a transfer was begun, and not finished.
    """

    init_info_cls = PolicyInit
    update_info_cls = PolicyBucket

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: Any) -> None:
        super().__init__(config, vllm_config, device, model)
        self._inlet = Inlet(torch.device(device), int(self.parallel_config.rank))
        self.sums: list[int] = []
        self.under_way = False

    def init_transfer_engine(self, init_info: PolicyInit) -> None:
        self._inlet.open(init_info.info)

    def start_weight_update(self) -> None:
        self.under_way = True
        initialize_layerwise_reload(self.model)

    @torch.no_grad()
    def receive_weights(self, update_info: PolicyBucket) -> None:
        tensors = self._inlet.receive(update_info.bucket)
        self.sums = sums_of([tensor for _, tensor in tensors])
        self.model.load_weights(tensors)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def finish_weight_update(self) -> None:
        self.under_way = False
        finalize_layerwise_reload(self.model, self.model_config)
        vllm_worker.pack_again(self.model)

    def shutdown(self) -> None:
        self._inlet.close()
