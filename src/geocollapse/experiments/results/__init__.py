"""What runs and sweeps leave on disk: folders, the records in them, and tables read back."""
