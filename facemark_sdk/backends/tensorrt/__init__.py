"""TensorRT 10 and 11: engine files that describe themselves, how they are built and run."""
