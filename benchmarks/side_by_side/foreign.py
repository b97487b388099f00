"""Small networks of others as plain ONNX files in ONNX Runtime: the network alone."""

from __future__ import annotations

from worker import Run

SEED = 5


def network(*, threads: int, model: str) -> tuple[Run, str]:
    """A graph with one float32 input of a fixed shape."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # The same as in our own sessions: no spinning once a run is over.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    image = np.random.default_rng(SEED).standard_normal(entry.shape, np.float32)

    def run() -> None:
        session.run(None, {entry.name: image})

    return run, f"input {' x '.join(map(str, entry.shape))}, random weights, network only"


KINDS = {"network": network}
