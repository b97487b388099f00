"""Training: data, losses, the loop, recipes."""
