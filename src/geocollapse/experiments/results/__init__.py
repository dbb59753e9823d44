"""What runs and sweeps leave on disk: folders (written and read), tables (read back)."""
