"""``python -m gnomon``, as torchrun starts it: ``torchrun --nproc-per-node 2 -m gnomon run ...``."""

from gnomon.cli.main import main

main()
