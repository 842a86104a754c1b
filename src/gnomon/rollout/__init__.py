"""Rollouts: prompts in, sampled responses with the sampler's log-probs out."""

from gnomon.rollout.protocol import Completion, Engine, FinishReason, Request, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine

__all__ = ["Completion", "Engine", "FinishReason", "Request", "SamplingParams", "TorchEngine"]
