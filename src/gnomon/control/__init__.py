"""Control tasks learned from comparisons of clips; needs ``pip install 'gnomon-rlhf[control]'``."""
