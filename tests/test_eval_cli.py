"""`facemark eval` as a user runs it: tables, reports, pictures, and clear refusals."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from facemark_sdk import Detector
from facemark_sdk.layouts import convert
from facemark_sdk.robustness import PROTOCOLS

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def evaluate(run_python: Run) -> Run:
    return lambda *arguments, **environment: run_python(
        "-m", "facemark_sdk.cli", "eval", *arguments, **environment
    )


@pytest.fixture
def tiny(evaluate: Run, landmark_file: Path, detector_file: Path) -> Run:
    options = ("--detector", detector_file, "--backend", "cpu", "--threads", 1)
    return lambda *arguments: evaluate(landmark_file, *arguments, *options)


def failed(result: Result, status: int = 1) -> str:
    """The one line on stderr of a command that failed."""
    assert result.returncode == status, result
    (line,) = result.stderr.splitlines()
    assert line.startswith("facemark: ")
    return line


def row(result: Result, name: str) -> list[str]:
    """The cells of the table's first row of that name."""
    assert result.returncode == 0, result
    cells = (line.split() for line in result.stdout.splitlines())
    return next(rest for first, *rest in filter(None, cells) if first == name)


def page(report: Path) -> tuple[list[list[str]], str]:
    """The cells of the rows of a report's Markdown table, headings first; what stands below."""
    rows, _, below = (report / "table.md").read_text().partition("\n\n")
    cells = [row.removeprefix("| ").removesuffix(" |").split(" | ") for row in rows.splitlines()]
    assert cells.pop(1) == ["---", *["---:"] * 8]
    assert not any("|" in cell for row in cells for cell in row)  # which would end it
    return [[cell.replace("&#124;", "|") for cell in row] for row in cells], below


def write(folder: Path, *records: dict) -> Path:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps({"layout": "ibug68", **record}) + "\n" for record in records)
    (folder / "annotations.jsonl").write_text(lines)
    return folder


@pytest.fixture
def data(tmp_path, scene, landmark_model, face_detector) -> Path:
    """Predictions 3 px off the truth on one photo, another photo without a face."""
    picture = scene((72, 72, 255))
    folder = tmp_path / "dätä"
    folder.mkdir()
    for name, content in (("one.png", picture), ("none.png", scene())):
        (folder / name).write_bytes(cv2.imencode(".png", content)[1].tobytes())
    (truth,) = landmark_model.predict(picture, face_detector(picture).boxes).points
    moved = (truth + np.float32([3, 0])).tolist()
    return write(
        folder,
        {"image": "one.png", "points": moved, "subsets": ["blur", "largepose"]},
        {"image": "none.png", "points": moved, "subsets": ["blur"], "box": [40, 40, 104, 104]},
    )


def test_figures_of_known_errors(tiny: Run, data: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "report"
    result = tiny(data, "--report", report)
    record = json.loads((report / "report.json").read_text())
    truth = np.array(json.loads((data / "annotations.jsonl").read_text().splitlines()[0])["points"])
    nme = 100 * 3 / np.linalg.norm(truth[36] - truth[45])
    faces, missed, _, *rates = row(result, "clean")
    assert (faces, missed) == ("2", "1")
    assert all(float(rate) >= 50 for rate in (*rates[:2], *rates[3:]))
    assert float(row(result, "-")[3]) == pytest.approx(nme, abs=0.006)
    clean = record["results"]["clean"]
    assert clean["subsets"]["largepose"]["nme_percent"] == pytest.approx(nme, rel=1e-4)
    assert clean["subsets"]["largepose"]["faces"] == 1
    assert list(clean["subsets"]) == ["largepose", "blur"]
    assert clean["sets"] == {"dätä": clean["subsets"]["blur"]}
    assert clean["missed"] == 1
    assert clean["failure_percent"]["0.10"] >= 50
    np.testing.assert_allclose(clean["found_landmarks_nme_percent"], [nme] * 68, rtol=1e-4)
    assert list(clean["found_groups_nme_percent"].values()) == pytest.approx([nme] * 7, rel=1e-4)
    assert [face["found"] for face in record["faces"]] == [True, False]
    assert record["faces"][0]["nme_percent"]["clean"] == pytest.approx(nme, rel=1e-4)
    assert record["faces"][0]["image"] == "one.png"


def test_reports_say_how_they_were_made(tiny: Run, data: Path, tmp_path: Path) -> None:
    result = tiny(data, "--report", tmp_path / "r", "--norm", "box", "--seed", 3)
    record = json.loads((tmp_path / "r" / "report.json").read_text())
    assert record["model"] == "tiny_landmarks"
    assert len(record["model_sha256"]) == 64
    assert record["norm"] == "box of the true points"
    assert record["boxes"] == "detector tiny_detector"
    assert (record["seed"], record["layout"], record["backend"]) == (3, "ibug68", "cpu")
    assert {"facemark_sdk", "numpy", "opencv", "onnxruntime", "python"} <= set(record["versions"])
    assert record["protocol"] in result.stdout
    assert "2 faces of dätä, boxes from detector tiny_detector" in record["protocol"]
    _, below = page(tmp_path / "r")
    assert f"tiny_landmarks on cpu: {record['protocol']}." in below
    assert "errors over box of the true points" in below
    for name in ("ced.png", "landmarks.png", "worst.png"):
        picture = cv2.imread(str(tmp_path / "r" / name))
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 5
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        *("table.md", "report.json", "ced.png", "landmarks.png", "worst.png")
    }


def test_several_sets_protocols_and_subsets(tiny: Run, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes((data / "one.png").read_bytes())
    first = json.loads((data / "annotations.jsonl").read_text().splitlines()[0])
    write(other, {**first, "image": "x.png", "subsets": ["a|b"]})
    listed = tmp_path / "mine.txt"
    listed.write_text("x.png\none.png\n")
    asked = [option for name in PROTOCOLS for option in ("--protocol", name)]
    arguments = (data, other, "--subset", listed, *asked, "--boxes", "points")
    result = tiny(*arguments, "--report", tmp_path / "r")
    for protocol in PROTOCOLS:
        assert row(result, protocol)[:2] == ["3", "0"]
    (headings, *rows), _ = page(tmp_path / "r")
    assert headings == [
        *("tiny_landmarks", "faces", "missed", "NME %", "FR 0.08", "FR 0.10", "AUC 0.10"),
        *("LFR 0.1", "LFR 0.2"),
    ]
    parts = ("dätä", "other", "largepose", "blur", "a|b", "mine")
    blocks = [(protocol, *(f"- {part}" for part in parts)) for protocol in PROTOCOLS]
    assert [name for name, *_ in rows] == [name for block in blocks for name in block]
    written = [" ".join(row) for row in rows]
    printed = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert [line for line in printed if line in written] == written
    assert "boxes from the true points" in result.stdout
    record = json.loads((tmp_path / "r" / "report.json").read_text())
    assert list(record["results"]) == list(PROTOCOLS)
    assert record["results"]["blur-large"]["subsets"]["mine"]["faces"] == 2
    again = tiny(*arguments, "--report", tmp_path / "again")
    assert again.returncode == 0
    for name in ("table.md", "report.json", "worst.png"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_folders_of_one_name_stay_apart(tiny: Run, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / data.name
    copy.mkdir(parents=True)
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    result = tiny(data, copy, "--report", tmp_path / "r")
    assert result.returncode == 0, result
    record = json.loads((tmp_path / "r" / "report.json").read_text())
    assert set(record["results"]["clean"]["sets"]) == {str(data), str(copy)}


def test_sets_of_several_layouts_in_their_points_in_common(
    tiny: Run, data: Path, tmp_path: Path
) -> None:
    """The same face with 68 points and with five, both measured in the five."""
    truth = json.loads((data / "annotations.jsonl").read_text().splitlines()[0])["points"]
    five = convert(np.float32(truth), "ibug68", "kps5")
    other = tmp_path / "five"
    other.mkdir()
    (other / "one.png").write_bytes((data / "one.png").read_bytes())
    write(other, {"image": "one.png", "points": five.tolist(), "layout": "kps5"})
    (data / "annotations.jsonl").write_text(
        (data / "annotations.jsonl").read_text().splitlines()[0] + "\n"
    )
    assert "evaluate each layout by itself, or in one that all" in failed(tiny(data, other))
    result = tiny(data, other, "--layout", "kps5", "--report", tmp_path / "r", "--boxes", "points")
    assert result.returncode == 0, result
    record = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (record["layout"], record["model_layout"]) == ("kps5", "ibug68")
    said = "5 points of kps5, annotations mapped from ibug68, predictions mapped from ibug68"
    assert said in record["protocol"]
    assert len(record["results"]["clean"]["found_landmarks_nme_percent"]) == 5
    assert set(record["results"]["clean"]["sets"]) == {"dätä", "five"}


@pytest.fixture(scope="module")
def example(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example photo, its truth what the bundled models see, 2 % of the eyes' distance off."""
    (face,) = Detector("pipnet_lite0_68", "retinaface_mnet025", backend="cpu")(photo)
    eyes = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
    truth = face.landmarks + np.float32([0.02 * eyes, 0])
    folder = tmp_path_factory.mktemp("example")
    return write(folder, {"image": str(photo), "points": truth.tolist()})


def test_bundled_models_on_the_example_photo(evaluate: Run, example: Path, tmp_path: Path) -> None:
    asked = ("--protocol", "clean", "--protocol", "occlusion-large", "--protocol", "blur-large")
    result = evaluate("pipnet_lite0_68", example, "--report", tmp_path, *asked, COLUMNS="80")
    faces, missed, nme, *_, auc, _, _ = row(result, "clean")
    assert (faces, missed) == ("1", "0")
    assert float(nme) == pytest.approx(2, abs=0.01)
    assert float(auc) == pytest.approx(0.8, abs=0.002)
    assert max(map(len, result.stdout.splitlines()[:8])) <= 80  # the table fits
    harder = json.loads((tmp_path / "report.json").read_text())["results"]
    assert harder["blur-large"]["nme_percent"] > 3


def test_bad_data_is_one_line(tiny: Run, data: Path, tmp_path: Path) -> None:
    assert "annotations.jsonl does not exist" in failed(tiny(tmp_path / "nix"))
    assert "line 1: no 'box' is annotated" in failed(tiny(data, "--boxes", "annotated"))
    assert "line 1: no 'box'" in failed(tiny(data, "--norm", "box", "--norm-box", "annotated"))
    assert "nix.txt does not exist" in failed(tiny(data, "--subset", tmp_path / "nix.txt"))
    lines = (data / "annotations.jsonl").read_text().splitlines()
    (data / "annotations.jsonl").write_text(lines[1])
    assert "found none of the 1 faces" in failed(tiny(data))
    (data / "none.png").write_bytes(b"")
    assert "line 1: image" in failed(tiny(data))
    points = np.random.default_rng(0).uniform(0, 99, (29, 2)).tolist()
    write(data, {"image": "one.png", "points": points, "layout": "cofw29"})
    said = failed(tiny(data))
    assert "no mapping from layout 'ibug68' to 'cofw29'; 'ibug68' maps to: aflw19, kps5" in said
    assert "unknown layout 'aflw'" in failed(tiny(data, "--layout", "aflw"))
    write(data, {"image": "one.png", "points": points, "layout": "points29"})
    assert "no eye corners" in failed(tiny(data))


def test_wrong_use(evaluate: Run, tiny: Run, data: Path, tmp_path: Path) -> None:
    assert "no data given" in failed(evaluate("pipnet_lite0_68"), 2)
    assert "--seed must be" in failed(tiny(data, "--seed", -1), 2)
    assert tiny(data, "--protocol", "fog").returncode == 2
    assert tiny(data, "--norm", "nose").returncode == 2
    assert "is for detection" in failed(evaluate("retinaface_mnet025", data))
    (tmp_path / "file").touch()
    assert "is no folder" in failed(tiny(data, "--report", tmp_path / "file"))
    assert "is no folder" in failed(tiny(data, "--report", tmp_path / "file" / "deeper"))


def test_reports_need_matplotlib_and_say_so(
    run_python: Run, landmark_file: Path, data: Path, tmp_path: Path
) -> None:
    code = "import sys; sys.modules['matplotlib'] = None\nfrom facemark_sdk.cli import main; main()"
    result = run_python("-c", code, "eval", landmark_file, data, "--report", tmp_path / "r")
    assert 'pip install "facemark-sdk[cpu,eval]"' in failed(result)
    assert not (tmp_path / "r").exists()
    boxes = ("--boxes", "points", "--backend", "cpu")
    assert run_python("-c", code, "eval", landmark_file, data, *boxes).returncode == 0


def test_help(evaluate: Run) -> None:
    text = evaluate("--help").stdout
    assert "usage: facemark eval" in text
    for option in ("--report", "--boxes", "--layout", "--norm", "--protocol", "--subset", "--seed"):
        assert option in text
