"""What is not the model's business: files, progress, provenance, several processes."""
