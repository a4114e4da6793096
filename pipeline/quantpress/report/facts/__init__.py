"""What is known of the artifacts of a model, and what follows from it."""
