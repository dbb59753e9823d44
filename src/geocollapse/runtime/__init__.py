"""Files, locks, progress, provenance, processes: nothing here knows of models or data."""
