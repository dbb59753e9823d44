"""Files, progress, provenance and several processes: nothing here knows of models or data."""
