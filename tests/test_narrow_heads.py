"""PIPNet's heads on fewer channels."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest

from facemark_export import narrow_fit
from facemark_export import narrow_heads as narrow_module
from facemark_export.export_file import export_file
from facemark_export.making import Form
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


@pytest.fixture(scope="module")
def seen(model, faces):
    """The heads, and the features that they take of the faces, (16, 64, 1280)."""
    nodes = narrow_module._head_nodes(model)
    features = narrow_module._features(model, nodes[0].input[0], [faces])
    return narrow_module._heads(model, nodes), features[: len(faces)]


def test_features_and_heads_are_the_networks_own(model, faces, seen):
    heads, features = seen
    found = features @ heads.weights.T + heads.biases
    for name, maps in create_backend("cpu", SOURCE).run({"image": faces}).items():
        own = found[..., heads.rows[name]].transpose(0, 2, 1).reshape(maps.shape)
        np.testing.assert_allclose(own, maps, atol=1e-4 * np.abs(maps).max())


def test_all_channels_lose_nothing(seen):
    heads, features = seen
    narrow = narrow_fit.start(heads, features, CHANNELS)
    np.testing.assert_allclose(said(narrow, features), told(heads, features), atol=1e-3)


def test_the_start_is_the_best_of_its_rank(seen):
    # Eckart-Young: no other 8 channels leave less of the outputs' weighted squares
    heads, features = seen
    counts = narrow_fit.cell_counts(heads, features).ravel()
    truth, narrow = told(heads, features), narrow_fit.start(heads, features, 8)
    importance = np.where(np.arange(truth.shape[-1]) < 68, narrow_fit.SCORES_COUNT, 1.0)
    rows = (truth * importance).reshape(len(counts), -1).astype(np.float64)
    root = np.sqrt(counts)[:, None]
    centred = (rows - np.average(rows, axis=0, weights=counts)) * root
    least = np.square(np.linalg.svd(centred, compute_uv=False)[8:]).sum()
    left = ((truth - said(narrow, features)) * importance).reshape(len(counts), -1) * root
    assert np.square(left).sum() == pytest.approx(least, rel=1e-3)


def test_cells_count_by_the_landmarks_that_are_read_there(seen):
    heads, features = seen
    counts = narrow_fit.cell_counts(heads, features)
    best = told(heads, features)[..., :68].argmax(axis=1)
    for face in range(4):
        read, number = np.unique(best[face], return_counts=True)
        expected = np.full(64, 0.05)
        expected[read] += np.minimum(number, 3) / 3
        np.testing.assert_allclose(counts[face], expected)


def test_teaching_halves_the_error_where_landmarks_are_read(seen):
    heads, features = seen
    begun = narrow_fit.start(heads, features, 48)
    best = told(heads, features)[..., :68].argmax(axis=1)
    errors = []
    for narrow in (begun, narrow_fit.teach(heads, features, begun, steps=100)):
        wrong = (said(narrow, features) - told(heads, features))[..., heads.rows["nb_x"]]
        wrong = wrong.reshape(*wrong.shape[:2], 68, 10)
        read = np.take_along_axis(wrong, best[:, None, :, None], axis=1)
        errors.append(np.square(read).mean())
    assert errors[1] < errors[0] / 2


def test_evened_channels_say_the_same_and_have_like_ranges(seen):
    heads, features = seen
    narrow = narrow_fit.start(heads, features, 64)
    mixed = narrow_fit.even(narrow)
    np.testing.assert_allclose(said(mixed, features), said(narrow, features), atol=1e-3)
    reach = [np.abs(features @ each.down.T).max(axis=(0, 1)) for each in (narrow, mixed)]
    assert reach[0].max() > 10 * np.median(reach[0])
    assert reach[1].max() < 3 * np.median(reach[1])


def test_the_graph_has_the_narrow_heads_and_no_others(model, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(narrow_module, "teach", lambda heads, features, narrow: narrow)
    narrow = narrow_heads(model, [faces[:8], faces[8:]], 32)
    shapes = {entry.name: tuple(entry.dims) for entry in narrow.graph.initializer}
    assert shapes["narrow/neck.weight"] == (32, CHANNELS, 1, 1)
    assert shapes["narrow/nb_x.weight"] == (680, 32, 1, 1)
    assert not any("layer.weight" in name for name in shapes)
    assert [e.name for e in narrow.graph.output] == [e.name for e in model.graph.output]


def told(heads, features):
    """What the heads say (N, cells, rows)."""
    return features @ heads.weights.T + heads.biases


def said(narrow, features):
    """The same through the narrow channels."""
    return features @ narrow.down.T @ narrow.up.T + narrow.bias


def test_points_stay_where_they_were(model, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(narrow_module, "teach", partial(narrow_fit.teach, steps=60))
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
    for channels in (0, CHANNELS):  # as many as the features have would only be slower
        with pytest.raises(ModelError, match=f"from 1 to {CHANNELS - 1}"):
            narrow_heads(model, [faces], channels)


def test_detectors_are_refused_before_anything_is_measured(tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(ModelError, match="--neck is for PIPNets"):
        export_file(
            resolve_model("retinaface_mnet025"),
            out,
            Form("int8", calibration=[tmp_path / "absent"], neck=8),
        )
    assert not out.exists()
