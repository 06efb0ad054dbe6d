import numpy as np
import torch

from cryograd.fourier import (
    HalfBall,
    fourier_3d,
    pack_ball,
    quick_size,
    resize_transform,
    resize_volume,
    unpack_ball,
    unpack_ball_adjoint,
)


def test_unpack_ball_inverts_pack_and_has_its_adjoint():
    rng = np.random.default_rng(0)
    ball = HalfBall(5)
    coefficients = torch.from_numpy(rng.normal(size=len(ball)) + 1j * rng.normal(size=len(ball)))
    coefficients[torch.as_tensor((ball.frequencies == 0).all(axis=1))] = 2.0
    volume = unpack_ball(coefficients, ball, 16)
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(volume))
    assert torch.allclose(pack_ball(spectrum, ball), coefficients)
    other = torch.from_numpy(rng.normal(size=(16, 16, 16)))
    left = (volume * other).sum()
    right = (coefficients.conj() * unpack_ball_adjoint(other, ball)).sum().real
    assert torch.isclose(left, right, rtol=1e-12)


def test_resizing_keeps_either_coefficients_or_values() -> None:
    ball, volume = HalfBall(4.0), torch.randn(10, 10, 10, dtype=torch.float64)
    for size in (11, 20):
        larger = resize_transform(volume, size)
        assert torch.allclose(pack_ball(fourier_3d(larger), ball), pack_ball(fourier_3d(volume), ball))
        assert torch.allclose(
            pack_ball(fourier_3d(resize_transform(larger, 10)), ball), pack_ball(fourier_3d(volume), ball)
        )
        assert torch.allclose(resize_volume(larger, size), larger)
        assert torch.allclose(resize_volume(volume, size).mean(), volume.mean())
    # Every second voxel is one of the smaller box's, without the coefficients at Nyquist.
    smooth = resize_transform(resize_transform(volume, 9), 10)
    assert torch.allclose(resize_volume(smooth, 20)[::2, ::2, ::2], smooth)


def test_a_quick_box_holds_its_radius_and_grows_with_it() -> None:
    sizes = [quick_size(radius, 128) for radius in range(1, 64)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 128
    for radius, size in enumerate(sizes, start=1):
        assert radius <= size / 2 - 1
    assert [quick_size(radius, 100) for radius in (7.0, 10.0, 49.0)] == [18, 24, 100]
