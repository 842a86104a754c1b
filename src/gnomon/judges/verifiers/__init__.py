"""Rewards that a program can check. Nothing heavy is imported until a reward is made."""

BUILTINS = {
    "maths": "gnomon.judges.verifiers.rewards:maths",
    "exact": "gnomon.judges.verifiers.rewards:exact",
    "regex": "gnomon.judges.verifiers.rewards:regex",
    "json": "gnomon.judges.verifiers.rewards:json_schema",
    "verifier": "gnomon.judges.verifiers.rewards:verifier",
    "instructions": "gnomon.judges.verifiers.instructions.reward:InstructionReward",
    "code": "gnomon.judges.code:CodeReward",
    "length": "gnomon.judges.verifiers.shaping:LengthReward",
    "format": "gnomon.judges.verifiers.shaping:FormatReward",
    "reasoning_gym": "gnomon.judges.verifiers.reasoning_gym:reasoning_gym",
    "repetition": "gnomon.judges.verifiers.shaping:RepetitionReward",
}
"""Names that a recipe's ``builtin`` takes, and where each is made."""
