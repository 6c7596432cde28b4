"""Training: stages, one loop over Accelerate, checkpoints, run records, evaluation."""
