"""Instructions a program can check (after IFEval, Zhou et al. 2023): texts, checkers, prompts."""
