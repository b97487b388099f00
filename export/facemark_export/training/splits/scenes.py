"""Which scenes show the photos that the landmark recipes hold out.

The scenes of `../shared/data` are whole photos of the same sets as its 68-point crops, in the same
order: HELEN's i-th crop is cut from scene i, AFW's j-th photo from the j-th scene after those. A
detector trained on the other scenes has not seen the photos on which landmarks are judged.

    python -m facemark_export.training.splits.scenes SHARED_DATA > scenes_val.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

from facemark_export.training.annotations import is_held_out, photo_of, read_annotations


def held_out_scenes(data: Path) -> list[str]:
    """Names in ``data/scenes`` of the photos that are held out in ``data/landmarks68``."""
    helen, afw = (
        [photo_of(record) for record in read_annotations(data / "landmarks68" / name)]
        for name in ("helen_train", "afw")
    )
    photos = helen + list(dict.fromkeys(afw))
    scenes = [str(record["image"]) for record in read_annotations(data / "scenes")]
    if len(photos) != len(scenes):
        raise SystemExit(f"{len(photos)} photos but {len(scenes)} scenes: not the sets expected")
    return [scene for scene, photo in zip(scenes, photos, strict=True) if is_held_out(photo)]


if __name__ == "__main__":
    print("\n".join(held_out_scenes(Path(sys.argv[1]))))
