"""The Wasserstein paper's losses: entropic transport, targets, and what they are held against."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.special import logsumexp

from facemark_export.training.ground_kernels import EuclideanKernel, SquaredKernel
from facemark_export.training.heatmap_targets import continuous_maps
from facemark_export.training.loop_recipe import TrainingError
from facemark_export.training.sinkhorn import SinkhornSettings, alternate, balance
from facemark_export.training.wasserstein import (
    SIGMAS,
    barycentres,
    jensen_shannon_loss,
    l2_loss,
    log_gaussians,
    log_softmax,
    soft_argmax_loss,
    wasserstein_distances,
    wasserstein_loss,
)
from facemark_sdk.decode.barycentre import decode_barycentre, softmax

CONVERGED = SinkhornSettings(iterations=3000, tolerance=1e-11)
RAW = replace(CONVERGED, debias=False)
CPU = torch.device("cpu")


def drawn_maps(*shape, scale=2.0, seed=0):
    """Logits, (*shape) float64."""
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def drawn_pairs(height, width, count=3, seed=0):
    """Logarithms of two (1, count, H, W) distributions."""
    return (
        log_softmax(drawn_maps(1, count, height, width, seed=seed)),
        log_softmax(drawn_maps(1, count, height, width, seed=seed + 1)),
    )


def loop_costs(height, width, power=1):
    """(H W, H W), one pair of cells at a time."""
    cells = [(r, c) for r in range(height) for c in range(width)]
    return np.array([[math.dist(a, b) ** power for b in cells] for a in cells])


def exact_transport(p, q, costs):
    """The least cost of carrying p (K,) to q (K,), by linear programming."""
    n = len(p)
    leaves, arrives = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
    found = linprog(
        costs.ravel(), A_eq=np.concatenate((leaves, arrives)), b_eq=np.concatenate((p, q))
    )
    assert found.success
    return found.fun


def loop_sinkhorn(p, q, costs, epsilon, iterations=3000):
    """min <pi, c> + epsilon KL(pi | p q^T), by plain scaling of the plan, and its value."""
    kernel = np.exp(-costs / epsilon) * np.outer(p, q)
    u, v = np.ones_like(p), np.ones_like(q)
    for _ in range(iterations):
        u = p / (kernel @ v)
        v = q / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    ratio = np.log(plan / np.outer(p, q))
    return (plan * costs).sum() + epsilon * (plan * ratio).sum()


def flat(log_maps):
    """(1, L, H, W) logarithms to (L, H W) masses."""
    return log_maps[0].flatten(1).exp().numpy()


# --- kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "power"), [(EuclideanKernel, 1), (SquaredKernel, 2)])
@pytest.mark.parametrize("epsilon", [3.0, 0.5, 0.02])
@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_a_kernel_sums_over_all_cells(kind, power, epsilon, spacing):
    logs = drawn_maps(2, 6, 8, scale=30)
    kernel = kind(6, 8, epsilon, spacing, torch.float64, CPU)
    costs = loop_costs(6, 8, power) * spacing**power
    expected = logsumexp(logs.flatten(1).numpy()[:, None] - costs / epsilon, axis=2)
    np.testing.assert_allclose(kernel.log_sums(logs).flatten(1), expected, rtol=1e-12)


@pytest.mark.parametrize("epsilon", [1.0, 0.3, 0.05])
def test_no_sum_vanishes_in_float32(epsilon):
    """Mass in one corner is seen from the other, e^-1800 away, to float32's digits."""
    logs = torch.full((1, 64, 64), -torch.inf)
    logs[0, 0, 0] = 0
    kernel = EuclideanKernel(64, 64, epsilon, 1.0, torch.float32, CPU)
    rows, columns = np.mgrid[:64, :64]
    np.testing.assert_allclose(
        kernel.log_sums(logs)[0], -np.hypot(rows, columns) / epsilon, rtol=3e-6, atol=3e-6
    )


def test_the_matrix_exists_once_whatever_epsilon_is():
    tiles = [EuclideanKernel(32, 32, e, 1.0, torch.float32, CPU).kernel for e in (1.0, 0.1, 0.01)]
    assert [len(t) for t in tiles] == [1, 32, 1024]
    assert {t.numel() for t in tiles} == {32**4}


def test_maps_of_prime_sides_are_cut_into_tiles_too():
    kernel = EuclideanKernel(7, 5, 0.02, 1.0, torch.float32, CPU)
    logs = drawn_maps(2, 7, 5)
    expected = logsumexp(logs.flatten(1).numpy()[:, None] - loop_costs(7, 5) / 0.02, axis=2)
    np.testing.assert_allclose(kernel.log_sums(logs.float()).flatten(1), expected, atol=1e-5)


# --- the distance ---------------------------------------------------------------------------


@pytest.mark.parametrize("coarse_first", [True, False])
@pytest.mark.parametrize(("squared", "power"), [(False, 1), (True, 2)])
def test_it_is_the_entropic_transport(squared, power, coarse_first):
    log_p, log_q = drawn_pairs(6, 4)
    costs = loop_costs(6, 4, power)
    found = wasserstein_distances(
        log_p, log_q, replace(RAW, epsilon=0.8, squared=squared, coarse_first=coarse_first)
    )
    pairs = zip(flat(log_p), flat(log_q), strict=True)
    expected = [[loop_sinkhorn(p, q, costs, 0.8) for p, q in pairs]]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_debiasing_subtracts_both_self_transports():
    log_p, log_q = drawn_pairs(5, 5)

    def raw(a, b):
        return wasserstein_distances(a, b, RAW)

    expected = raw(log_p, log_q) - raw(log_p, log_p) / 2 - raw(log_q, log_q) / 2
    found = wasserstein_distances(log_p, log_q, CONVERGED)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    np.testing.assert_allclose(wasserstein_distances(log_p, log_p, CONVERGED), 0, atol=1e-9)
    assert (found > 0).all()


@pytest.mark.parametrize(("height", "width"), [(6, 6), (8, 8), (5, 9)])
def test_the_exact_distance_is_reached_as_epsilon_falls(height, width):
    """0 <= OT_epsilon - W <= epsilon * entropy, for KL(pi | p q^T) <= the smaller entropy."""
    log_p, log_q = drawn_pairs(height, width)
    p, q = flat(log_p), flat(log_q)
    costs = loop_costs(height, width)
    exact = np.array([exact_transport(a, b, costs) for a, b in zip(p, q, strict=True)])
    entropy = np.minimum(-(p * np.log(p)).sum(1), -(q * np.log(q)).sum(1))
    last = np.inf
    for epsilon in (1.0, 0.3, 0.1, 0.03, 0.01):
        coupled = replace(RAW, epsilon=epsilon, tolerance=1e-6)
        excess = wasserstein_distances(log_p, log_q, coupled)[0].numpy() - exact
        assert (excess > 0).all()
        assert (excess < epsilon * entropy).all()
        assert (excess < last).all()
        last = excess
        divergence = wasserstein_distances(log_p, log_q, replace(coupled, debias=True))
    assert (last < 0.02 * exact).all()
    np.testing.assert_allclose(divergence[0], exact, rtol=0.02)


def test_between_points_it_is_their_distance():
    """Whatever epsilon is: only one coupling exists. Cells are 1 apart, on both axes."""
    logs = torch.full((1, 2, 12, 20), -torch.inf)
    logs[0, 0, 3, 2] = logs[0, 1, 11, 17] = 0
    for how in (SinkhornSettings(), SinkhornSettings(epsilon=4.0, coarse_first=False)):
        found = wasserstein_distances(logs[:, :1], logs[:, 1:], how)
        assert found.item() == pytest.approx(17.0, abs=1e-3)


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_geomloss_agrees(epsilon, debias):
    geomloss = pytest.importorskip("geomloss")
    log_q = drawn_pairs(8, 8)[1]
    cells = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double().repeat(3, 1, 1)
    oracle = geomloss.SamplesLoss(
        "sinkhorn", p=1, blur=epsilon, scaling=0.999, debias=debias, backend="tensorized"
    )
    logits = drawn_maps(1, 3, 8, 8).requires_grad_()
    p = log_softmax(logits)
    expected = oracle(p[0].flatten(1).exp(), cells, log_q[0].flatten(1).exp(), cells)
    found = wasserstein_distances(p, log_q, replace(CONVERGED, epsilon=epsilon, debias=debias))
    np.testing.assert_allclose(found[0].detach(), expected.detach(), rtol=1e-3)
    slopes = [torch.autograd.grad(v.sum(), logits, retain_graph=True)[0] for v in (found, expected)]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=3e-3)


def test_half_as_many_cells_first_changes_the_way_not_the_goal():
    log_p = log_softmax(drawn_maps(1, 4, 16, 16))
    log_q = log_gaussians(torch.rand(1, 4, 2, dtype=torch.float64), 16, 16, 1.5)
    both = [
        wasserstein_distances(log_p, log_q, replace(CONVERGED, coarse_first=first))
        for first in (True, False)
    ]
    np.testing.assert_allclose(*both, rtol=1e-9)


def test_float32_and_its_default_tolerance_are_near_convergence():
    logits = drawn_maps(2, 3, 32, 32)
    log_q = log_gaussians(torch.rand(2, 3, 2, dtype=torch.float64), 32, 32, 1.5)
    converged = wasserstein_distances(
        log_softmax(logits), log_q, replace(CONVERGED, tolerance=1e-9)
    )
    found = wasserstein_distances(log_softmax(logits.float()), log_q.float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, converged, atol=5e-3)


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize(("squared", "epsilon"), [(True, 5.0), (False, 1.0)])
def test_the_gradient_of_the_distance_is_right(debias, squared, epsilon):
    """The envelope theorem's against finite differences, in float64."""
    log_q = drawn_pairs(3, 4, count=2)[1]
    how = replace(CONVERGED, debias=debias, squared=squared, epsilon=epsilon)
    logits = drawn_maps(1, 2, 3, 4, scale=1, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda maps: wasserstein_distances(log_softmax(maps), log_q, how), logits
    )


POINTS = torch.tensor([[[0.31, 0.72], [1.2, -0.4]]], dtype=torch.float64)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(
    "loss",
    [
        lambda maps, sigma: wasserstein_loss(maps, POINTS, sigma, CONVERGED, origin=0.5),
        lambda maps, sigma: jensen_shannon_loss(maps, POINTS, sigma, origin=0.5),
        lambda maps, sigma: l2_loss(maps, POINTS, sigma, origin=0.5),
        lambda maps, sigma: soft_argmax_loss(maps, POINTS, origin=0.5),
    ],
    ids=["wasserstein", "jensen_shannon", "l2", "soft_argmax"],
)
def test_the_gradients_of_the_losses_are_right(loss, sigma):
    """Against finite differences, in float64; the second truth lies outside of the map."""
    maps = drawn_maps(1, 2, 6, 6, scale=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: loss(m, sigma), maps)


def test_no_gradient_is_left_at_the_target_when_debiased():
    """Without debiasing the entropy would make a sharper map than the target a better one."""
    points = torch.tensor([[[0.52, 0.41]]])
    target = log_gaussians(points, 32, 32, 1.5)

    def slope(how):
        logits = target.clone().requires_grad_()
        wasserstein_loss(logits, points, 1.5, how).backward()
        return logits.grad

    assert slope(SinkhornSettings(tolerance=1e-5)).abs().max() < 1e-4
    sharpening = -slope(SinkhornSettings(tolerance=1e-5, debias=False))
    assert sharpening.flatten()[target.argmax()] > 1e-3


def test_far_mass_is_pulled_as_hard_as_it_is_far():
    """Figure 4b: L2 saturates where maps do not overlap; the potential grows with the distance."""
    logits = torch.zeros(1, 1, 32, 32)
    points = torch.tensor([[[4 / 32, 16 / 32]]])
    log_p = log_softmax(logits).requires_grad_()
    log_q = log_gaussians(points, 32, 32, 1.0)
    wasserstein_distances(log_p, log_q, SinkhornSettings(debias=False)).sum().backward()
    potential = (log_p.grad / log_p.detach().exp())[0, 0, 16]
    steps = potential[10:].diff()
    np.testing.assert_allclose(steps, 1.0, atol=0.02)


def test_descent_ends_at_the_target():
    """By steps on logits alone, from a map that peaks elsewhere."""
    points = torch.tensor([[[0.7, 0.3]]])
    logits = (-((torch.arange(16.0) - 3) ** 2) / 8).expand(1, 1, 16, 16).clone().requires_grad_()
    stepping = torch.optim.Adam([logits], 0.3)
    for _ in range(300):
        stepping.zero_grad()
        wasserstein_loss(logits, points, 1.5).backward()
        stepping.step()
    p = log_softmax(logits.detach()).exp()
    target = log_gaussians(points, 16, 16, 1.5).exp()
    assert (barycentres(p) - barycentres(target)).abs().max() * 16 < 0.05
    assert (p - target).abs().sum() < 0.15


def test_iterations_are_not_stored():
    """The graph holds the softmax and one product, however many iterations there were."""
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    for iterations in (1, 50):
        how = SinkhornSettings(iterations=iterations, tolerance=0.0)
        loss = wasserstein_loss(logits, POINTS[:, :1].float(), 1.0, how)
        seen, waiting = set(), [loss.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [before for before, _ in node.next_functions]
        assert len(seen) < 15


# --- targets --------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", SIGMAS)
def test_targets_are_gaussians_of_sum_one(sigma):
    points = torch.tensor([[[0.4, 0.55], [0.03, 0.9]]])
    found = log_gaussians(points, 24, 16, sigma, origin=0.5).exp()
    for i, (x, y) in enumerate(points[0].double().numpy() * (16, 24)):
        expected = np.array(
            [
                [
                    math.exp(-((c + 0.5 - x) ** 2 + (r + 0.5 - y) ** 2) / (2 * sigma**2))
                    for c in range(16)
                ]
                for r in range(24)
            ]
        )
        np.testing.assert_allclose(found[0, i], expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_truth_outside_weighs_on_the_nearest_cells(sigma):
    far = torch.tensor([[[-0.3, 0.5], [9.0, 9.0], [1e6, -1e6]]])
    logs = log_gaussians(far, 16, 16, sigma)
    assert torch.isfinite(logs).all()
    maps = logs.exp()
    np.testing.assert_allclose(maps.sum((2, 3)), 1, rtol=1e-5)
    assert maps.flatten(2).argmax(2).tolist() == [[8 * 16, 255, 15]]
    assert maps[0, 0, :, :3].sum() > 0.7


def test_barycentres_are_the_decoders():
    maps = drawn_maps(2, 3, 12, 20).float()
    points = barycentres(log_softmax(maps).exp(), origin=0.5)
    decoded = decode_barycentre(
        {"heatmaps": maps.numpy()}, weigh=lambda m: softmax(m, 1.0), origin=0.5
    )
    np.testing.assert_allclose(points, decoded.points, atol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 1.5])
def test_a_perfect_map_is_read_where_the_truth_is(sigma):
    points = 0.2 + 0.6 * torch.rand(2, 5, 2, generator=torch.manual_seed(1))
    maps = log_gaussians(points, 32, 32, sigma, origin=0.5)
    assert soft_argmax_loss(maps, points, origin=0.5) < 1e-5
    assert jensen_shannon_loss(maps, points, sigma, origin=0.5).item() == pytest.approx(0, abs=1e-6)
    assert abs(wasserstein_loss(maps, points, sigma, origin=0.5)) < 2e-3


# --- the others -----------------------------------------------------------------------------


def test_jensen_shannon_is_the_mean_of_two_divergences():
    maps = drawn_maps(1, 3, 5, 7)
    points = torch.rand(1, 3, 2, dtype=torch.float64)
    p, q = flat(log_softmax(maps)), flat(log_gaussians(points, 5, 7, 1.0))
    m = (p + q) / 2
    expected = ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)).mean() / 2
    assert jensen_shannon_loss(maps, points, 1.0).item() == pytest.approx(expected)


def test_jensen_shannon_saturates_and_wasserstein_does_not():
    """Section 1: only the latter knows how far two maps are apart."""
    points = torch.tensor([[[4 / 32, 16 / 32]]])
    near, far = (
        log_gaussians(torch.tensor([[[at / 32, 0.5]]]), 32, 32, 1.0) for at in (16.0, 28.0)
    )
    js = [jensen_shannon_loss(m, points, 1.0).item() for m in (near, far)]
    assert js == pytest.approx([math.log(2)] * 2, abs=1e-3)
    w = [wasserstein_loss(m, points, 1.0).item() for m in (near, far)]
    assert w[1] - w[0] == pytest.approx(12.0, abs=0.1)


def test_soft_argmax_is_l1_of_the_means():
    maps = drawn_maps(2, 3, 5, 7)
    points = torch.rand(2, 3, 2, dtype=torch.float64)
    p = log_softmax(maps).exp().numpy()
    total = 0.0
    for n in range(2):
        for i in range(3):
            rows, columns = np.mgrid[:5, :7]
            total += abs((p[n, i] * columns).sum() / 7 - points[n, i, 0].item())
            total += abs((p[n, i] * rows).sum() / 5 - points[n, i, 1].item())
    assert soft_argmax_loss(maps, points).item() == pytest.approx(total / 6)


def test_l2_has_no_softmax():
    maps = drawn_maps(1, 3, 8, 8).float()
    points = torch.rand(1, 3, 2)
    expected = (maps - continuous_maps(points, 8, 1.5)).square().mean()
    assert l2_loss(maps, points, 1.5).item() == pytest.approx(expected.item())


# --- extremes -------------------------------------------------------------------------------

LOSSES = {
    "wasserstein": lambda maps, points: wasserstein_loss(maps, points, 1.0),
    "raw": lambda maps, points: wasserstein_loss(
        maps, points, 1.0, SinkhornSettings(debias=False, epsilon=0.2)
    ),
    "squared": lambda maps, points: wasserstein_loss(
        maps, points, 1.0, SinkhornSettings(squared=True)
    ),
    "jensen_shannon": lambda maps, points: jensen_shannon_loss(maps, points, 1.0),
    "soft_argmax": soft_argmax_loss,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("logits", ["spike", "hole", "noise", "flat"])
@pytest.mark.parametrize("truth", [(0.5, 0.5), (0.0, 1.0), (50.0, -50.0)])
def test_no_logits_and_no_truth_break_a_loss(loss, logits, truth):
    maps = torch.zeros(1, 1, 16, 16)
    if logits == "noise":
        maps = 1e4 * drawn_maps(1, 1, 16, 16).float()
    elif logits != "flat":
        maps[0, 0, 0, 15] = 1e4 if logits == "spike" else -1e4
    maps.requires_grad_()
    value = loss(maps, torch.tensor([[truth]]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(maps.grad).all()


def test_a_map_without_truth_counts_nothing():
    log_q = log_gaussians(torch.rand(1, 2, 2), 16, 16, 1.0)
    log_q[0, 1] = -torch.inf
    logits = drawn_maps(1, 2, 16, 16).float().requires_grad_()
    found = wasserstein_distances(log_softmax(logits), log_q)
    found.sum().backward()
    alone = wasserstein_distances(log_softmax(logits.detach()[:, :1]), log_q[:, :1])
    np.testing.assert_allclose(found.detach()[0], [alone.item(), 0.0], atol=1e-3)
    assert logits.grad[0, 0].abs().sum() > 0
    assert logits.grad[0, 1].abs().sum() == 0


def test_no_maps_give_no_distances():
    empty = torch.zeros(0, 5, 8, 8)
    assert wasserstein_distances(empty, empty).shape == (0, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_autocast_changes_nothing(loss, dtype):
    maps = drawn_maps(1, 3, 16, 16).to(dtype)
    points = torch.rand(1, 3, 2)
    expected = loss(maps.float(), points)
    with torch.autocast("cpu", dtype):
        found = loss(maps.clone().requires_grad_(), points)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epsilon", value) for value in (0.0, -1.0, math.nan, math.inf)),
        ("iterations", 0),
        *(("tolerance", value) for value in (-1.0, math.nan, math.inf)),
    ],
)
def test_settings_that_no_iteration_can_have_are_refused(name, value):
    with pytest.raises(TrainingError, match=f"sinkhorn {name} must be .* got {value}"):
        SinkhornSettings(**{name: value})


def test_the_least_settings_are_usable():
    loosest = SinkhornSettings(epsilon=0.01, iterations=1, tolerance=0.0)
    log_p, log_q = drawn_pairs(4, 4)
    assert wasserstein_distances(log_p, log_q, loosest).isfinite().all()


# --- convergence ----------------------------------------------------------------------------


def test_iterations_stop_at_the_tolerance(monkeypatch):
    log_p, log_q = (maps[0] for maps in drawn_pairs(9, 9))
    sums = EuclideanKernel.log_sums
    calls = []
    monkeypatch.setattr(
        EuclideanKernel, "log_sums", lambda self, logs: calls.append(1) or sums(self, logs)
    )
    counts = []
    for tolerance in (1.0, 1e-2, 1e-4, 0.0):
        calls.clear()
        alternate(log_p, log_q, SinkhornSettings(iterations=30, tolerance=tolerance))
        counts.append(len(calls))
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2] < counts[3] == 61


def test_potentials_satisfy_both_marginals():
    log_p, log_q = (maps[0] for maps in drawn_pairs(6, 7))
    f, g = (x.flatten(1).numpy() for x in alternate(log_p, log_q, CONVERGED))
    p, q = (x.flatten(1).exp().numpy() for x in (log_p, log_q))
    costs = loop_costs(6, 7)
    plans = np.exp(f[:, :, None] + g[:, None] - costs) * p[:, :, None] * q[:, None]
    np.testing.assert_allclose(plans.sum(2), p, atol=1e-12)
    np.testing.assert_allclose(plans.sum(1), q, atol=1e-10)
    h = balance(log_p, CONVERGED).flatten(1).numpy()
    own = np.exp(h[:, :, None] + h[:, None] - costs) * p[:, :, None] * p[:, None]
    np.testing.assert_allclose(own.sum(1), p, atol=1e-9)
