from __future__ import annotations

import math

import numpy as np
import pytest

from autocache.errors import AutocacheError
from autocache.metrics import psnr, relative_l1, ssim


def batch(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((3, 32, 32, 3), dtype=np.float32)


def test_identical_images() -> None:
    images = batch()
    assert psnr(images, images) == [math.inf] * 3
    assert ssim(images, images) == pytest.approx([1.0] * 3)
    assert relative_l1(images, images) == [0.0] * 3


def test_psnr_of_a_known_error_is_per_image() -> None:
    zeros = np.zeros((2, 8, 8, 3), np.float32)
    other = zeros.copy()
    other[1] += 0.1
    assert psnr(zeros, other) == pytest.approx([math.inf, 20.0], abs=1e-4)
    assert psnr(zeros, other, data_range=10.0)[1] == pytest.approx(40.0, abs=1e-4)


def test_differences_below_a_byte_are_seen() -> None:
    images = np.full((1, 16, 16, 3), 0.5, np.float32)
    assert 80 < psnr(images, images + np.float32(1e-4 / 2))[0] < 100


def test_agrees_with_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    left, right = batch(1), batch(2)
    expected = [
        peak_signal_noise_ratio(one, two, data_range=1.0)
        for one, two in zip(left, right, strict=True)
    ]
    assert psnr(left, right) == pytest.approx(expected, rel=1e-4)


def test_ssim_falls_with_noise() -> None:
    images = batch()
    slightly, much = (ssim(images, images + scale * batch(9)) for scale in (0.05, 0.8))
    assert all(-1 <= low < high < 1 for low, high in zip(much, slightly, strict=True))


def test_relative_l1() -> None:
    ones = np.ones((1, 4, 4, 1), np.float32)
    assert relative_l1(ones, ones * 1.25) == pytest.approx([0.25])
    assert relative_l1(ones * 0, ones) == [math.inf]


@pytest.mark.parametrize("metric", [psnr, ssim, relative_l1])
def test_bytes_and_other_shapes_are_refused(metric) -> None:
    images = batch()
    with pytest.raises(AutocacheError, match="raw floats"):
        metric(images, (images * 255).astype(np.uint8))
    with pytest.raises(AutocacheError, match="one shape"):
        metric(images, images[:2])
