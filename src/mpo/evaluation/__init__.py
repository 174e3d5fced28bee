"""Evaluation: what a run came to, from its store."""
