"""Training a classifier: the loop (train), its state (state), what is recorded (recording)."""
