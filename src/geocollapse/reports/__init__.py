"""Pages made from what experiments and measurements leave on disk."""
