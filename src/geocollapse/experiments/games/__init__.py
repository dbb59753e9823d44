"""Two-player games as experiments: what is played, how a turn is taken, one run."""
