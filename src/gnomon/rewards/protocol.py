"""``Sample`` and ``Score`` under the name that reward files have known them by."""

from gnomon.judges.protocol import Sample, SampleJudge, Score

Reward = SampleJudge
__all__ = ["Reward", "Sample", "Score"]
