"""Runs and sweeps on disk: folders, the records in them, and tables read back."""
