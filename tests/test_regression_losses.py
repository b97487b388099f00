"""Losses of regressed coordinates: values against plain loops, gradients in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from facemark_export.training.regression_losses import (
    ADAPTIVE_ALPHA,
    LOSSES,
    PIXEL,
    adaptive_wing,
    anisotropic,
    l2,
)

FACES, LANDMARKS = 3, 5


def drawn_errors(scale=0.05, seed=0):
    """Errors from far below a pixel to far above ten, of a 256-pixel crop; none at a kink."""
    generator = torch.Generator().manual_seed(seed)
    spread = 10.0 ** torch.empty(FACES, LANDMARKS, 2).uniform_(-3, 0.5, generator=generator)
    signs = torch.randint(0, 2, spread.shape, generator=generator) * 2 - 1
    return (signs * spread * scale).double()


def drawn_weights(seed=1):
    factor = torch.randn(
        FACES, LANDMARKS, 2, 2, generator=torch.Generator().manual_seed(seed)
    ).double()
    return factor @ factor.mT + 0.1 * torch.eye(2).double()


def loop_mean(errors, value):
    """Mean over faces and landmarks of the sum over x and y of value(|error|)."""
    total = 0.0
    for face in errors.tolist():
        for x, y in face:
            total += value(abs(x)) + value(abs(y))
    return total / (len(errors) * len(errors[0]))


def plain_smooth_l1(e):
    e *= 256  # pixels
    return (0.5 * e * e if e < 1 else e - 0.5) / 256


def plain_wing(e):
    """Wing loss paper: w = 10, epsilon = 2, in pixels."""
    e *= 256
    w, epsilon = 10.0, 2.0
    c = w - w * math.log(1 + w / epsilon)
    return (w * math.log(1 + e / epsilon) if e < w else e - c) / 256


def published_awing(e, y, alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5):
    """Adaptive wing loss paper: the value for a difference e at a pixel whose true value is y."""
    if e < theta:
        return omega * math.log(1 + (e / epsilon) ** (alpha - y))
    a = (
        omega
        * (1 / (1 + (theta / epsilon) ** (alpha - y)))
        * (alpha - y)
        * (theta / epsilon) ** (alpha - y - 1)
        / epsilon
    )
    c = theta * a - omega * math.log(1 + (theta / epsilon) ** (alpha - y))
    return a * e - c


PLAIN = {
    "l1": lambda e: e,
    "l2": lambda e: e * e,
    "smooth_l1": plain_smooth_l1,
    "wing": plain_wing,
    "adaptive_wing": lambda e: (
        published_awing(e * 256, y=1.0, omega=10.0, epsilon=2.0, theta=10.0) / 256
    ),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_values_equal_the_plain_loop(name):
    errors = drawn_errors()
    assert (errors.abs() < 0.5 * PIXEL).any()
    assert (errors.abs() > 20 * PIXEL).any()
    assert LOSSES[name](errors).item() == pytest.approx(loop_mean(errors, PLAIN[name]), rel=1e-9)


@pytest.mark.parametrize("y", [0.0, 0.3, 1.0])
def test_adaptive_wing_is_the_published_function_with_the_published_constants(y):
    errors = drawn_errors(scale=0.5)
    ours = adaptive_wing(errors, width=14.0, threshold=0.5, curvature=1.0, power=ADAPTIVE_ALPHA - y)
    expected = loop_mean(errors, partial(published_awing, y=y))
    assert ours.item() == pytest.approx(expected, rel=1e-9)


def test_the_anisotropic_loss_is_the_quadratic_form():
    """Equation 2, over the number of landmarks."""
    errors, weights = drawn_errors(), drawn_weights()
    total = 0.0
    for n in range(FACES):
        for i in range(LANDMARKS):
            for row in range(2):
                for column in range(2):
                    total += errors[n, i, row] * weights[n, i, row, column] * errors[n, i, column]
    expected = total.item() / (FACES * LANDMARKS)
    assert anisotropic(errors, weights).item() == pytest.approx(expected, rel=1e-12)


def test_with_identity_matrices_the_anisotropic_loss_is_l2():
    errors = drawn_errors()
    weights = torch.eye(2).double().expand(FACES, LANDMARKS, 2, 2)
    assert anisotropic(errors, weights).item() == pytest.approx(l2(errors).item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_in_float64(name):
    # gradcheck's step of 1e-8 must be small beside the smallest errors
    errors = drawn_errors(scale=1.0).requires_grad_()
    assert errors.abs().min() > 1e-4
    assert torch.autograd.gradcheck(LOSSES[name], errors, eps=1e-8, atol=1e-6, rtol=1e-4)


def test_gradient_of_the_anisotropic_loss_in_float64():
    errors = drawn_errors().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: anisotropic(e, drawn_weights()), errors)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_perfect_or_a_wild_prediction_gives_finite_gradients(name):
    errors = torch.tensor([[[0.0, -0.0], [1e6, -1e6]]], requires_grad=True)
    LOSSES[name](errors).backward()
    assert torch.isfinite(errors.grad).all()
    assert (errors.grad[0, 0] == 0).all()
    assert errors.grad[0, 1, 0] > 0 > errors.grad[0, 1, 1]


@pytest.mark.parametrize("name", ["smooth_l1", "wing", "adaptive_wing"])
def test_the_pieces_meet(name):
    kink = (1 if name == "smooth_l1" else 10) * PIXEL
    below, above = (
        LOSSES[name](torch.full((1, 1, 2), kink * (1 + side)).double()) for side in (-1e-9, 1e-9)
    )
    assert below.item() == pytest.approx(above.item(), rel=1e-7)


def test_adaptive_wing_has_no_kink_and_is_flat_at_zero_unlike_wing():
    def slope(name, error):
        errors = torch.full((1, 1, 2), error * PIXEL).double().requires_grad_()
        LOSSES[name](errors).backward()
        return errors.grad[0, 0, 0].item()

    assert slope("adaptive_wing", 9.9999) == pytest.approx(
        slope("adaptive_wing", 10.0001), rel=1e-4
    )
    assert slope("wing", 10.0001) / slope("wing", 9.9999) == pytest.approx(1.2, rel=1e-3)
    assert slope("adaptive_wing", 1e-30) < 0.01  # as the error to the power 0.1
    assert slope("wing", 1e-8) == pytest.approx(10 / 2, rel=1e-4)
