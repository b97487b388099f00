"""Landmark layouts and the mappings between them."""

from facemark_sdk.layouts.known import LAYOUTS, get_layout, layouts_with
from facemark_sdk.layouts.layout import Layout
from facemark_sdk.layouts.mapping import convert, mapping_weights

__all__ = ["LAYOUTS", "Layout", "convert", "get_layout", "layouts_with", "mapping_weights"]
