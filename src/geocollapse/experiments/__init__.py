"""Experiments: recipes, runs, sweeps, and their results on disk."""
