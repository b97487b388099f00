"""PIPNet's heads on fewer channels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from facemark_export.narrow_heads import narrow_heads
from facemark_export.onnx_file import save
from facemark_sdk import FaceDetector, LandmarkModel, load_image
from facemark_sdk.backends import create_backend
from facemark_sdk.errors import ModelError
from facemark_sdk.models import resolve_model

SOURCE = resolve_model("pipnet_lite0_68")
CHANNELS = 1280


@pytest.fixture(scope="module")
def model():
    return onnx.load(SOURCE)


@pytest.fixture(scope="module")
def faces(photo):
    """(16, 256, 256, 3) uint8: the astronaut's face in boxes of several sizes and places."""
    landmarks = LandmarkModel(SOURCE, backend="cpu", threads=1)
    image = load_image(photo)
    box = FaceDetector(backend="cpu", threads=1)(image).boxes[0]
    rng = np.random.default_rng(0)
    side = box[2] - box[0]
    boxes = box + rng.uniform(-0.15, 0.15, (16, 4)).astype(np.float32) * side
    return landmarks.crop([image], [boxes])[0].copy()


def outputs(model, faces, tmp_path):
    path = tmp_path / "model.onnx"
    spec = LandmarkModel(SOURCE, backend="cpu", threads=1).spec
    save(model, spec, path)
    return create_backend("cpu", path).run({"image": faces})


def test_all_channels_lose_nothing(model, faces, tmp_path):
    # 16 faces have 1,024 cells, fewer than channels: directions never seen there may be any
    narrow = narrow_heads(model, [faces], CHANNELS)
    found = outputs(narrow, faces, tmp_path)
    for name, maps in create_backend("cpu", SOURCE).run({"image": faces}).items():
        np.testing.assert_allclose(found[name], maps, atol=1e-3 * np.abs(maps).max())


def test_more_channels_lose_less_and_take_fewer_products(model, faces, tmp_path):
    plain = create_backend("cpu", SOURCE).run({"image": faces})
    lost = []
    for channels in (8, 32, 128):
        narrow = narrow_heads(model, [faces[:8], faces[8:]], channels)
        found = outputs(narrow, faces, tmp_path)
        lost.append(sum(float(np.square(found[name] - plain[name]).sum()) for name in plain))
        shapes = {entry.name: tuple(entry.dims) for entry in narrow.graph.initializer}
        assert shapes["narrow/neck.weight"] == (channels, CHANNELS, 1, 1)
        assert shapes["narrow/nb_x.weight"] == (680, channels, 1, 1)
        assert not any("layer.weight" in name for name in shapes)
    assert lost[0] > 3 * lost[1] > 9 * lost[2]


def test_it_is_the_best_of_its_rank(model, faces, tmp_path):
    # Eckart-Young: no other 8 channels leave less of the outputs' weighted squares
    plain = create_backend("cpu", SOURCE).run({"image": faces})
    found = outputs(narrow_heads(model, [faces], 8), faces, tmp_path)
    scores, names = plain["cls"], list(plain)
    read = np.stack([
        np.bincount(own, minlength=64) for own in scores.reshape(*scores.shape[:2], -1).argmax(-1)
    ])  # fmt: skip
    counts = (0.05 + np.minimum(read, 3) / 3).reshape(-1, 1)

    def weighted(maps):
        rows = [maps[n].transpose(0, 2, 3, 1).reshape(len(counts), -1) for n in names]
        rows[names.index("cls")] = 3 * rows[names.index("cls")]
        return np.concatenate(rows, axis=1).astype(np.float64)

    truth = weighted(plain)
    centred = (truth - np.average(truth, axis=0, weights=counts[:, 0])) * np.sqrt(counts)
    least = np.square(np.linalg.svd(centred, compute_uv=False)[8:]).sum()
    left = np.square((truth - weighted(found)) * np.sqrt(counts)).sum()
    assert left == pytest.approx(least, rel=1e-3)


def test_points_stay_where_they_were(model, faces, tmp_path):
    narrow = narrow_heads(model, [faces], 128)
    path = tmp_path / "narrow.onnx"
    save(narrow, LandmarkModel(SOURCE, backend="cpu", threads=1).spec, path)
    plain, found = (
        LandmarkModel(file, backend="cpu", threads=1).predict_crops(faces)
        for file in (SOURCE, path)
    )
    assert np.linalg.norm(plain.points - found.points, axis=-1).mean() < 0.5


def test_other_networks_are_refused(model, faces):
    detector = onnx.load(resolve_model("retinaface_mnet025"))
    with pytest.raises(ModelError, match="PIPNets"):
        narrow_heads(detector, [faces], 8)
    with pytest.raises(ModelError, match="at least one"):
        narrow_heads(model, [faces], 0)
