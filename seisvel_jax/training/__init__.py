"""Training: losses, augmentation, optimiser, the step and its state, checkpoints."""
