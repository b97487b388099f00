"""Make facemark models: networks, training, checkpoints, export with proof (needs torch)."""

from facemark_sdk._requirements import require

require(
    "facemark_export",
    {
        "torch": "PyTorch",
        "onnx": "onnx",
        "onnxscript": "onnxscript",
        "onnxslim": "onnxslim",
        "safetensors": "safetensors",
    },
    'pip install "facemark-sdk[cpu,export]", or [cpu,train] to train',
)
