"""What a detector is trained on: truths assigned to priors, offsets, three losses (COMPAT 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facemark_sdk.detect.retinaface import CENTRE_VARIANCE, SIZE_VARIANCE

POSITIVE_IOU = 0.35
"""A prior that overlaps a truth by this much answers for it (Pytorch_Retinaface's rule)."""
NEGATIVE_IOU = 0.25
"""Below it a prior is background. Between the two a shift of a few pixels decides, so nothing is
asked of the prior.
"""
FORCED_IOU = 0.2
"""A truth without such a prior still gets its best one, if that overlaps by this much."""
IGNORED_COVER = 0.5
"""A prior that covers this much of an ignored face is not asked whether it sees one ..."""
IGNORED_AREA = 16.0
"""... unless it is this many times larger than the face."""
NEGATIVES = 7
"""Hard negatives a positive (Pytorch_Retinaface's rule) ..."""
LEAST_NEGATIVES = 64
"""... and in a batch at least, so that images without a face teach too."""
BOX_WEIGHT = 2.0
"""Weight of the box loss; the face loss has 1 (Pytorch_Retinaface's rule)."""
POINT_WEIGHT = 0.4
"""Weight of the point loss. Pytorch_Retinaface has 1; in a short training from scratch the ten
coordinates would then be most of the gradient, and boxes and scores matter more here.
"""

FACE, PADDING, IGNORED = 1, 0, -1
"""Kinds of rows in a batch's padded truths."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What every prior of every image should say."""

    positive: Tensor
    """(N, A) bool: the prior answers for a truth."""
    negative: Tensor
    """(N, A) bool: the prior sees background. Some priors are neither."""
    truth: Tensor
    """(N, A) int64: the truth's row, where `positive`."""


def detection_losses(
    loc: Tensor,
    conf: Tensor,
    landms: Tensor,
    boxes: Tensor,
    kps: Tensor,
    kinds: Tensor,
    pointed: Tensor,
    priors: Tensor,
) -> dict[str, Tensor]:
    """The three weighted losses of a batch, each averaged over the positive priors.

    Args:
        loc: (N, A, 4) box offsets.
        conf: (N, A, 2) logits of background and face.
        landms: (N, A, 10) point offsets.
        boxes: (N, M, 4) truths, xyxy in canvas pixels, padded.
        kps: (N, M, 5, 2) their points.
        kinds: (N, M) FACE, PADDING or IGNORED.
        pointed: (N, M) bool: the points are known.
        priors: (A, 4) cx, cy, w, h in canvas pixels.
    """
    assignment = assign(boxes, kinds, priors)
    image, prior = assignment.positive.nonzero(as_tuple=True)
    truth = assignment.truth[image, prior]
    count = max(len(image), 1)
    box_errors = F.smooth_l1_loss(
        loc[image, prior], encode_boxes(boxes[image, truth], priors[prior]), reduction="sum"
    )
    known = pointed[image, truth]
    targets = encode_points(kps[image, truth], priors[prior])
    point_errors = F.smooth_l1_loss(landms[image, prior][known], targets[known], reduction="sum")
    return {
        "face": face_loss(conf, assignment),
        "box": BOX_WEIGHT * box_errors / count,
        "points": POINT_WEIGHT * point_errors / known.sum().clamp(min=1),
    }


def face_loss(conf: Tensor, assignment: Assignment) -> Tensor:
    """Cross entropy of positives and of the batch's hardest negatives, by the number of positives.

    Negatives compete across the batch, not within an image: an image without faces gives as many as
    it has hard ones.
    """
    margin = conf[..., 1] - conf[..., 0]
    positives = F.softplus(-margin[assignment.positive])
    negatives = F.softplus(margin[assignment.negative])
    hardest = min(max(NEGATIVES * len(positives), LEAST_NEGATIVES), len(negatives))
    return (positives.sum() + negatives.topk(hardest, sorted=False).values.sum()) / max(
        len(positives), 1
    )


def assign(boxes: Tensor, kinds: Tensor, priors: Tensor) -> Assignment:
    """Assign truths to priors, image by image, as most have few of the truths there is room for.

    Args:
        boxes: (N, M, 4) xyxy in canvas pixels.
        kinds: (N, M) FACE, PADDING or IGNORED.
        priors: (A, 4) cx, cy, w, h.
    """
    corners = to_corners(priors)
    shape = (len(boxes), len(priors))
    positive = torch.zeros(shape, dtype=torch.bool, device=priors.device)
    negative = torch.ones(shape, dtype=torch.bool, device=priors.device)
    truth = torch.zeros(shape, dtype=torch.int64, device=priors.device)
    for n in range(len(boxes)):
        faces = (kinds[n] == FACE).nonzero()[:, 0]
        if len(faces):
            overlaps = box_iou(boxes[n, faces], corners)
            best, row = best_truths(overlaps)
            positive[n] = best >= POSITIVE_IOU
            negative[n] = best < NEGATIVE_IOU
            truth[n] = faces[row]
        ignored = boxes[n, kinds[n] == IGNORED]
        if len(ignored):
            negative[n] &= ~covers(corners, ignored).any(dim=0)
    return Assignment(positive, negative, truth)


def best_truths(overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """Overlap (A,) with and row (A,) of the truth each prior answers for, from overlaps (M, A).

    Each truth's best prior is made to answer for it, with overlap 1, if it reaches FORCED_IOU; of
    two truths with the same best prior, the one that overlaps more has it.
    """
    best, row = overlaps.max(dim=0)
    own_overlap, own_prior = overlaps.max(dim=1)
    for truth in own_overlap.argsort().tolist():
        if own_overlap[truth] >= FORCED_IOU:
            best[own_prior[truth]] = 1.0
            row[own_prior[truth]] = truth
    return best, row


def covers(corners: Tensor, ignored: Tensor) -> Tensor:
    """Which priors (A, 4) see ignored faces (K, 4), both xyxy, too well to be asked -> (K, A)."""
    shared = intersection(ignored, corners)
    size = box_area(ignored)[:, None]
    return (shared >= IGNORED_COVER * size) & (box_area(corners)[None] <= IGNORED_AREA * size)


def encode_boxes(boxes: Tensor, priors: Tensor) -> Tensor:
    """Boxes (P, 4) xyxy relative to priors (P, 4), in units of the variances -> (P, 4)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    offsets = (centres - priors[:, :2]) / (CENTRE_VARIANCE * priors[:, 2:])
    sizes = torch.log((boxes[:, 2:] - boxes[:, :2]) / priors[:, 2:]) / SIZE_VARIANCE
    return torch.cat([offsets, sizes], dim=1)


def encode_points(kps: Tensor, priors: Tensor) -> Tensor:
    """Points (P, 5, 2) relative to priors (P, 4), in units of the variance -> (P, 10)."""
    return ((kps - priors[:, None, :2]) / (CENTRE_VARIANCE * priors[:, None, 2:])).flatten(1)


def to_corners(priors: Tensor) -> Tensor:
    """cx, cy, w, h (A, 4) -> xyxy (A, 4)."""
    return torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], dim=1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (M, 4) and (A, 4), xyxy -> (M, A)."""
    shared = intersection(a, b)
    return shared / (box_area(a)[:, None] + box_area(b)[None] - shared).clamp(min=1e-9)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Shared area of boxes (M, 4) and (A, 4), xyxy -> (M, A)."""
    corners = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(
        a[:, None, :2], b[None, :, :2]
    )
    return corners.clamp(min=0).prod(dim=2)


def box_area(boxes: Tensor) -> Tensor:
    """Areas (M,) of boxes (M, 4) xyxy."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
