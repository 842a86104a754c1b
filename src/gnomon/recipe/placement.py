"""Where workers run."""

from __future__ import annotations

from pydantic import Field

from gnomon.recipe.spec import Spec


class RaySpec(Spec):
    """A Ray cluster that places ``workers``, of rollouts and of rewards; see
    [workers.md](workers.md)."""

    address: str | None = Field(
        None,
        description="of the cluster: auto, HOST:PORT or ray://HOST:PORT; null: RAY_ADDRESS, or a "
        "cluster of this machine's",
    )
    cpus_per_worker: float = Field(1, ge=0)
    gpus_per_worker: float = Field(
        0, ge=0, description="for rollouts and reward models; other rewards take none"
    )
    start_seconds: float = Field(
        300, gt=0, description="after which a worker that found no room, or is not up, is given up"
    )
