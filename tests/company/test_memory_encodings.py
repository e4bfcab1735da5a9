"""The forms in which cached tensors are held: what they cost, how far off they are, what they lose.

Bounds are from plain arithmetic on the numbers themselves, in float64.
"""

from __future__ import annotations

import pytest
import torch

from autocache.runtime.encodings import LOSSY, PLAIN, Held
from autocache.runtime.encodings.host import HeldOnHost
from devices import DEVICE

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((2, 48, 16), (3, 4, 6, 10), (24, 12), (40,))
FORMS = ("bf16", "int8", "fp8")


def _tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Channels of very different sizes, as the residuals of transformers have them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.linspace(-3, 1, shape[-1], dtype=torch.float64)
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64) * sizes
    return numbers.to(dtype).to(DEVICE)


def _dtypes() -> list[torch.dtype]:
    """Not every device has double precision."""
    return list(DTYPES) if DEVICE.type in ("cpu", "cuda") else list(DTYPES[1:])


def _channels(numbers: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of the channel of each sample, beside each of its numbers."""
    samples = numbers.reshape(-1, 1, *numbers.shape) if numbers.ndim < 3 else numbers
    dims = tuple(range(1, samples.ndim - 1)) if numbers.ndim >= 3 else (0, 1, 2)
    if numbers.ndim < 3:
        return numbers.abs().amax(0, keepdim=True).expand_as(numbers)
    return samples.abs().amax(dims, keepdim=True).expand_as(numbers)


@pytest.mark.parametrize("dtype", _dtypes(), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_what_comes_back(form: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Shape, dtype, device and the bytes said beforehand; every number within its bound."""
    tensor = _tensor(shape, dtype)
    held = Held(LOSSY[form], tensor)
    back = held.decode()
    assert (back.shape, back.dtype, back.device) == (tensor.shape, dtype, tensor.device)
    assert held.bytes == LOSSY[form].size(tensor.shape, dtype)
    assert held.bytes == sum(p.untyped_storage().nbytes() for p in held.parts)
    assert held.bytes <= PLAIN.size(tensor.shape, dtype)
    exact, found = tensor.double().cpu(), back.double().cpu()
    largest = _channels(exact)
    bound = {
        "bf16": exact.abs() * 2**-8,
        "int8": largest / 254,
        "fp8": torch.maximum(exact.abs() * 2**-4, largest / 448 / 1024),
    }[form]
    # On top comes what rounding to the tensor's own dtype adds.
    own = torch.finfo(dtype).eps * largest
    assert bool(((found - exact).abs() <= bound * 1.001 + own).all())


@pytest.mark.parametrize("form", FORMS)
def test_what_it_saves(form: str) -> None:
    """Of float32, half or nearly a quarter; of two-byte numbers bf16 saves nothing and is exact."""
    single, half = _tensor((1, 256, 64), torch.float32), _tensor((1, 256, 64), torch.bfloat16)
    share = Held(LOSSY[form], single).bytes / (single.numel() * 4)
    assert share == 0.5 if form == "bf16" else 0.25 < share < 0.27
    held = Held(LOSSY[form], half)
    if form == "bf16":
        assert held.bytes == half.numel() * 2
        assert torch.equal(held.decode(), half)
    else:
        assert half.numel() < held.bytes < half.numel() * 1.1


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_zeros_and_next_to_nothing(form: str) -> None:
    """A channel of zeros is zeros, one of the smallest numbers stays finite and as small."""
    tensor = _tensor((2, 40, 8), torch.float32)
    tensor[:, :, 3] = 0
    tensor[:, :, 4] = 1e-44
    tensor[0, :, 5] = torch.finfo(torch.float32).max / 2
    back = Held(LOSSY[form], tensor).decode()
    assert bool((back[:, :, 3] == 0).all())
    assert bool((back[:, :, 4].abs() <= 1e-37).all())
    assert bool(back.isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_is_never_a_number(form: str, value: float) -> None:
    """It comes back not finite, and leaves the other samples and channels as they were."""
    tensor = _tensor((2, 40, 8), torch.float32)
    clean = Held(LOSSY[form], tensor).decode()
    tensor[1, 7, 2] = value
    back = Held(LOSSY[form], tensor).decode()
    assert not bool(back[1, 7, 2].isfinite())
    others = torch.ones_like(tensor, dtype=torch.bool)
    others[1, :, 2] = False
    assert torch.equal(back[others], clean[others])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24).reshape(2, 3, 4),
        torch.ones(2, 3, 4, dtype=torch.bool),
        torch.randn(2, 3, 4, dtype=torch.complex64),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.zeros(0, 3, dtype=torch.float16),
        torch.full((1, 1, 1), 3.0, dtype=torch.bfloat16),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tuple(tensor.shape)}",
)
def test_what_cannot_be_made_smaller_is_exact(form: str, tensor: torch.Tensor) -> None:
    """Integers, truth values, complex numbers, single numbers and nothing at all."""
    held = Held(LOSSY[form], tensor)
    assert (
        held.bytes
        == LOSSY[form].size(tensor.shape, tensor.dtype)
        <= PLAIN.size(tensor.shape, tensor.dtype)
    )
    assert torch.equal(held.decode(), tensor)


@pytest.mark.parametrize("form", [PLAIN, *LOSSY.values()], ids=lambda form: form.name)
def test_layout_in_memory_is_kept(form) -> None:
    """Channels last comes back channels last, as from any arithmetic: what follows may be compiled
    for that."""
    tensor = _tensor((2, 8, 6, 6), torch.float32).to(memory_format=torch.channels_last)
    usual = {tensor.stride()} if form is PLAIN else {tensor.stride(), (tensor * 1).stride()}
    assert Held(form, tensor).decode().stride() in usual
    assert HeldOnHost(form, tensor).decode().stride() in usual


@pytest.mark.parametrize("form", [PLAIN, *LOSSY.values()], ids=lambda form: form.name)
def test_on_the_host_it_is_the_same(form) -> None:
    """Bytes on the host, back on the device the very same as if it had stayed there, every time."""
    tensor = _tensor((2, 48, 16), torch.float32)
    stayed, away = Held(form, tensor), HeldOnHost(form, tensor)
    assert away.place.type == "cpu"
    assert all(part.device.type == "cpu" for part in away.parts)
    assert away.bytes == stayed.bytes
    tensor.zero_()
    if form is PLAIN:
        stayed = Held(form, _tensor((2, 48, 16), torch.float32))
    for ahead in (False, True, False):
        if ahead:
            away.fetch()
        back = away.decode()
        assert back.device == DEVICE
        assert torch.equal(back, stayed.decode())
