"""The wind tunnel: a synthetic world whose gold preference is a program.

Labellers there have known noise and bias, a proxy reward can be over-optimised on purpose, and each
failure and each cure can be shown (Gao et al. 2022, "Scaling laws for reward model
overoptimization").
"""

from gnomon.tasks.tunnel.base_model import BASE_PATH, load_base
from gnomon.tasks.tunnel.corpus import documents
from gnomon.tasks.tunnel.demonstrations import EXPERT, MIXED, Quality, demonstrations
from gnomon.tasks.tunnel.gold import (
    CorrectReward,
    GoldReward,
    GoldScore,
    gold_score,
    is_correct,
)
from gnomon.tasks.tunnel.labellers import (
    ORDINARY,
    Labeller,
    Turns,
)
from gnomon.tasks.tunnel.world import FAMILIES, generate_prompts

__all__ = [
    "BASE_PATH",
    "EXPERT",
    "FAMILIES",
    "MIXED",
    "ORDINARY",
    "CorrectReward",
    "GoldReward",
    "GoldScore",
    "Labeller",
    "Quality",
    "Turns",
    "demonstrations",
    "documents",
    "generate_prompts",
    "gold_score",
    "is_correct",
    "load_base",
]
