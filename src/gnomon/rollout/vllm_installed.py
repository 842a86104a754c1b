"""vLLM as it is installed: imported where it is there, and of a version that gnomon can use."""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from typing import Any

from gnomon.errors import ConfigError

OLDEST, TRIED = (0, 11), (0, 32)
TRANSFERS = (0, 32)
"""The first vLLM whose transfer of weights is known to have the four phases."""


def import_vllm() -> Any:
    """The module vllm.

    Raises:
        ConfigError: it is missing, broken, or too old.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            "engine: vllm needs vLLM in this environment: pip install 'gnomon-rlhf[vllm]'. Or "
            "start it in an environment of its own (gnomon serve-rollouts MODEL) and give its "
            "address as rollout.url"
        )
    try:
        import vllm
    except Exception as error:  # a build for another machine fails in many ways
        raise ConfigError(f"vLLM is installed but does not import here: {error}") from error
    check_version(str(getattr(vllm, "__version__", "")))
    return vllm


def version_of(version: str) -> tuple[int, ...]:
    """Its first two numbers; none where it has none."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match.group(1)), int(match.group(2))) if match else ()


def check_version(version: str) -> None:
    """Refuse a vLLM that is too old, and warn of one that nobody has tried."""
    found = version_of(version) or None
    if found is not None and found < OLDEST:
        raise ConfigError(
            f"vLLM {version} is too old: gnomon needs {OLDEST[0]}.{OLDEST[1]} or newer"
        )
    if found is None or found > TRIED:
        warnings.warn(
            f"vLLM {version or 'of unknown version'} has not been tried with gnomon (the newest "
            f"that was: {TRIED[0]}.{TRIED[1]}). A test sequence is scored after each update, which "
            "finds more than rounding; smaller differences show in the metric mismatch.",
            stacklevel=2,
        )
