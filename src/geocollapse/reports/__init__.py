"""Pages made from the results of experiments on disk."""
