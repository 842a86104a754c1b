"""Where reward files written for gnomon 0.x import from; new ones import ``gnomon.judges``."""
