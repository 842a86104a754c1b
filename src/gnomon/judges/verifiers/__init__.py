"""Rewards that a program can check."""
