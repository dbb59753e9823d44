"""Training a classifier: the loop, its optimizer and state, and what is recorded on the way."""
