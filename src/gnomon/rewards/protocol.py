"""``Sample`` and ``Score`` under the name that reward files have known them by."""

from gnomon.judges.protocol import Reward, Sample, Score

__all__ = ["Reward", "Sample", "Score"]
