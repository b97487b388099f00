"""Make facemark models: networks, training, checkpoints, export with proof (needs torch)."""
