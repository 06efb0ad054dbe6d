"""Particles that do not belong, told apart by the scales of their images."""

import numpy as np
import pytest

from cryograd.validation.junk import junk_probability


def mixture(n: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scales, and which of them are of junk."""
    rng = np.random.default_rng(seed)
    junk = rng.random(n) < share
    return np.where(junk, rng.normal(0.65, 0.25, n), rng.normal(1.2, 0.12, n)), junk


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_junk_is_listed(share: float) -> None:
    scale, junk = mixture(3000, share)
    probability = junk_probability(scale)
    listed = probability > 0.5
    assert np.mean(junk[listed]) > 0.8
    assert np.mean(listed[junk]) > 0.7
    # Probabilities mean what they say.
    assert probability.mean() == pytest.approx(share, abs=0.05)


def test_a_lower_scale_is_never_more_trusted() -> None:
    scale, _ = mixture(2000, 0.3)
    scale[:5] = (-1.0, 0.0, 2.0, 3.0, 5.0)
    assert (np.diff(junk_probability(scale)[np.argsort(scale)]) <= 0.0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_set_without_junk_has_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert not junk_probability(rng.normal(1.0, 0.15, 2000)).any()
    # A tail of strong images is not junk.
    assert not junk_probability(rng.gamma(20.0, 0.05, 2000)).any()


def test_few_or_equal_scales_are_not_judged() -> None:
    assert not junk_probability(np.ones(50)).any()
    assert not junk_probability(np.array([1.0, 0.1])).any()


@pytest.mark.parametrize("seed", range(5))
def test_one_group_with_heavy_tails_is_not_split(seed: int) -> None:
    scale = 1.0 + 0.1 * np.random.default_rng(seed).standard_t(8, 1268)
    assert not junk_probability(scale).any()


@pytest.mark.parametrize("width", [0.06, 0.1, 0.15])
def test_junk_need_not_scatter_more(width: float) -> None:
    rng = np.random.default_rng(2)
    scale = np.concatenate([rng.normal(0.6, width, 300), rng.normal(1.1, 0.1, 900)])
    probability = junk_probability(scale)
    assert (probability[:300] > 0.5).mean() > 0.9
    assert (probability[300:] > 0.5).mean() < 0.05
    assert (np.diff(probability[np.argsort(scale)]) <= 1e-12).all()
