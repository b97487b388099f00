"""Other projects' ONNX files, made to describe themselves: the same weights behind our input."""

from facemark_export.foreign.importing import ImportReport, import_onnx

__all__ = ["ImportReport", "import_onnx"]
