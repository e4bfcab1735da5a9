"""Frequency weighs low and high frequencies apart."""

from __future__ import annotations

import math

import pytest
import torch

from autocache.how import Frequency
from autocache.how.frequency import disc
from autocache.runtime.entry import Value
from tests.how.test_blend import moment

LOW = {"alpha_low": 2.0, "alpha_high": 5.0, "low_window": (400, 600), "high_window": (-1, 300)}


def fill(how: Frequency, x: torch.Tensor, time: float = 500.0) -> torch.Tensor:
    return how.fill([Value(0, x)], moment(time=time))


def wave(size: int, frequency: int) -> torch.Tensor:
    row = torch.cos(torch.arange(size) * 2 * math.pi * frequency / size)
    return row.expand(1, 2, size, size).contiguous()


@pytest.mark.parametrize(("frequency", "factor"), [(0, 2.0), (2, 2.0), (3, 1.0), (8, 1.0)])
def test_low_frequencies_are_a_disc(frequency, factor):
    """Of radius 16 // 5 = 3, which belongs to it, seen from the middle of an even grid."""
    x = wave(16, frequency)
    factor = 2.0 if frequency == 3 else factor
    torch.testing.assert_close(fill(Frequency(**LOW), x), factor * x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("time", "low", "high"), [(500, 2, 1), (400, 1, 1), (300, 1, 1), (299, 1, 5), (0, 1, 5)]
)
def test_windows_are_open(time, low, high):
    assert Frequency(**LOW).weights(time) == (low, high)
    slow, fast = wave(16, 1), wave(16, 7)
    filled = fill(Frequency(**LOW), slow + fast, time)
    torch.testing.assert_close(filled, low * slow + high * fast, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 12), (2, 3), (1, 1)])
def test_equals_the_complex_spectrum(size):
    """The real transform of a difference is the sum of its two complex parts."""
    x = torch.randn(2, 3, 4, *size, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
    mask = disc(*size)
    both = 2.0 * (spectrum * mask) + spectrum * ~mask
    expected = torch.fft.ifft2(torch.fft.ifftshift(both, dim=(-2, -1)))
    torch.testing.assert_close(fill(Frequency(**LOW), x), expected.real)
    assert expected.imag.abs().max() < 1e-6


def test_equal_weights_need_no_transform():
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(fill(Frequency(**LOW), x, 350), x)
