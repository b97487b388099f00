"""Measuring a landmark model on annotated photos: the work behind ``facemark eval``.

faces = read_faces(folder)
predictions = predict_faces(model, faces, detected_boxes(FaceDetector()), layout=faces[0].layout)
judged = judge(list(predictions), "clean", Norm("inter-ocular"))
figures(judged)
"""

from facemark_sdk.evaluation.annotations import (
    AnnotatedFace,
    common_layout,
    read_annotations,
    read_faces,
    with_subset,
)
from facemark_sdk.evaluation.boxes import (
    BoxesOf,
    annotated_boxes,
    detected_boxes,
    fitting_box,
    tight_boxes,
)
from facemark_sdk.evaluation.figures import Figures, figures, parts
from facemark_sdk.evaluation.judge import Judged, Norm, check_norm, judge, mean_shape
from facemark_sdk.evaluation.predict import Prediction, predict_faces, seed_of

__all__ = [
    "AnnotatedFace",
    "BoxesOf",
    "Figures",
    "Judged",
    "Norm",
    "Prediction",
    "annotated_boxes",
    "check_norm",
    "common_layout",
    "detected_boxes",
    "figures",
    "fitting_box",
    "judge",
    "mean_shape",
    "parts",
    "predict_faces",
    "read_annotations",
    "read_faces",
    "seed_of",
    "tight_boxes",
    "with_subset",
]
