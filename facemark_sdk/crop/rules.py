"""Crop rules by name: the published ones as data."""

from __future__ import annotations

from facemark_sdk.spec import CropRule

_DEMO = (1.2 - 1) / 2
"""COMPAT 1.2: 0.09999999999999998, so that boxes of exactly 10 k pixels grow by k - 1."""

_HRNET = (1.25 - 1) / 2
"""COMPAT 2.2: side = 1.25 x the box's longer side."""

_PFLD = (1.2 - 1) / 2
"""COMPAT 3.3: crops "follow PFLD practice", a square of 1.2 x the longer side."""

CROP_RULES: dict[str, CropRule] = {
    "box": CropRule(0.0, 0.0, 0.0, 0.0, square=False),
    "box-square": CropRule(0.0, 0.0, 0.0, 0.0, square=True),
    # The top is cut, not grown.
    "pipnet-demo": CropRule(_DEMO, -_DEMO, _DEMO, _DEMO, square=False, source="pipnet-demo"),
    "hrnet": CropRule(*(_HRNET,) * 4, square=True, source="hrnet", stretch=True),
    "hrnet-plain": CropRule(*(_HRNET,) * 4, square=True, source="hrnet"),
    "hrnet-integer": CropRule(
        *(_HRNET,) * 4, square=True, source="hrnet", stretch=True, integer=True
    ),
    "hih": CropRule(*(_PFLD,) * 4, square=True),
}
"""Rules that an export may state by name; a spec holds the rule itself."""
