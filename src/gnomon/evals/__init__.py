"""How good a model is: suites of questions, each measured into a record in ``runs/``."""
