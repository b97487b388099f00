"""Readers for the official formats of public landmark data sets, and their conversion to ours."""

from facemark_export.training.datasets.formats import FORMATS, Format
from facemark_export.training.datasets.pipnet_crop import PIPNET_RULES, PipnetCrop, pipnet_box
from facemark_export.training.datasets.sample import Sample

__all__ = ["FORMATS", "PIPNET_RULES", "Format", "PipnetCrop", "Sample", "pipnet_box"]
