import numpy as np
import torch

from cryograd.fourier import HalfBall, pack_ball, unpack_ball, unpack_ball_adjoint


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
