"""``python -m gnomon``, as torchrun starts it (``torchrun ... -m gnomon run RECIPE``)."""

from gnomon.cli.main import main

main()
