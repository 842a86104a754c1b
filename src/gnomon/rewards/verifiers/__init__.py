"""Rewards that a program can check. Nothing heavy is imported until a reward is made."""

BUILTINS = {
    "maths": "gnomon.rewards.verifiers.rewards:maths",
    "exact": "gnomon.rewards.verifiers.rewards:exact",
    "regex": "gnomon.rewards.verifiers.rewards:regex",
    "json": "gnomon.rewards.verifiers.rewards:json_schema",
    "verifier": "gnomon.rewards.verifiers.rewards:verifier",
    "instructions": "gnomon.rewards.verifiers.instructions.reward:InstructionReward",
    "code": "gnomon.rewards.code:CodeReward",
    "length": "gnomon.rewards.verifiers.shaping:LengthReward",
    "format": "gnomon.rewards.verifiers.shaping:FormatReward",
    "reasoning_gym": "gnomon.rewards.verifiers.reasoning_gym:reasoning_gym",
    "repetition": "gnomon.rewards.verifiers.shaping:RepetitionReward",
}
"""Names that a recipe's ``builtin`` takes, and where each is made."""
