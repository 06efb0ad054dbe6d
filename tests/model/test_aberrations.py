import numpy as np
import pytest
import torch
import torch_ctf
from scipy.special import eval_jacobi

from cryograd.data.optics import electron_wavelength
from cryograd.data.read import read_particles
from cryograd.fourier import HalfDisc
from cryograd.model.aberrations import even_phase, odd_phase

BOX, PIXEL, VOLTAGE, CS = 64, 1.5, 300.0, 2.7
DISC = HalfDisc(31)
FREQUENCIES = torch.as_tensor(DISC.frequencies / (BOX * PIXEL))
TILT = (0.4e-3, -0.7e-3)
# Orders (n, m) as RELION's documentation lists them.
ODD = [(1, -1), (1, 1), (3, -3), (3, -1), (3, 1), (3, 3), (5, -5), (5, -3)]
EVEN = [(0, 0), (2, -2), (2, 0), (2, 2), (4, -4), (4, -2), (4, 0), (4, 2), (4, 4), (6, -6)]


def odd(frequencies, coefficients, tilt=(0.0, 0.0)):
    return odd_phase(frequencies, electron_wavelength(VOLTAGE), CS * 1e7, tilt, coefficients)


def one(place):
    """Coefficients of which one is 1."""
    return (*[0.0] * place, 1.0)


def by_jacobi(n, m):
    """A Zernike polynomial by the classical identity with Jacobi polynomials."""
    kx, ky = FREQUENCIES.numpy().T
    rho, phi, order = np.hypot(kx, ky), np.arctan2(ky, kx), abs(m)
    pairs = (n - order) // 2
    radial = (-1) ** pairs * rho**order * eval_jacobi(pairs, order, 0, 1.0 - 2.0 * rho**2)
    return radial * (np.cos(m * phi) if m >= 0 else np.sin(-m * phi))


@pytest.mark.parametrize(("place", "order"), list(enumerate(ODD)))
def test_odd_coefficients_are_in_relions_order(place, order):
    np.testing.assert_allclose(odd(FREQUENCIES, one(place)), by_jacobi(*order), atol=1e-12)


@pytest.mark.parametrize(("place", "order"), list(enumerate(EVEN)))
def test_even_coefficients_are_in_relions_order(place, order):
    np.testing.assert_allclose(even_phase(FREQUENCIES, one(place)), by_jacobi(*order), atol=1e-12)


def test_example_of_relions_documentation():
    kx, ky = FREQUENCIES.T
    assert torch.allclose(odd(FREQUENCIES, one(3)), 3.0 * (kx**2 + ky**2) * ky - 2.0 * ky)


def test_beam_tilt_is_relions_zernike_coma():
    # RELION turns a tilt into −2πCsλ²τ/3 of Z_3^±1, and takes the linear part of these away again.
    coma = -2.0 * np.pi * CS * 1e7 * electron_wavelength(VOLTAGE) ** 2 * np.array(TILT) / 3.0
    coefficients = (2.0 * coma[1], 2.0 * coma[0], 0.0, coma[1], coma[0])
    assert torch.allclose(odd(FREQUENCIES, (), TILT), odd(FREQUENCIES, coefficients))
    both = odd(FREQUENCIES, coefficients, TILT)
    assert torch.allclose(both, 2.0 * odd(FREQUENCIES, (), TILT))
    assert torch.allclose(both, -odd(-FREQUENCIES, coefficients, TILT))


ARGUMENTS = {
    "defocus": 1.0,
    "astigmatism": 0.0,
    "astigmatism_angle": 0.0,
    "voltage": VOLTAGE,
    "spherical_aberration": CS,
    "amplitude_contrast": 0.1,
    "phase_shift": 0.0,
    "pixel_size": PIXEL,
    "image_shape": (BOX, BOX),
    "rfft": True,
    "fftshift": False,
}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        # Its beam tilt is opposite to RELION's.
        ({"beam_tilt_mrad": -1e3 * torch.tensor(TILT)}, ((), TILT)),
        ({"odd_zernike_coeffs": {"Z33s": 20.0, "Z33c": -9.0}}, ((0.0, 0.0, 20.0, 0.0, 0.0, -9.0),)),
    ],
)
def test_odd_phases_are_those_of_torch_ctf(theirs, ours):
    kx, ky = DISC.frequencies.T
    plain = torch_ctf.calculate_ctf_2d(**ARGUMENTS)[..., ky % BOX, kx].squeeze()
    aberrated = torch_ctf.calculate_ctf_2d(**ARGUMENTS, **theirs)[..., ky % BOX, kx].squeeze()
    phase = odd(FREQUENCIES, *ours)
    clear = plain.abs() > 0.3
    difference = torch.angle((aberrated / plain) * torch.polar(torch.ones_like(phase), -phase))[clear]
    assert phase.abs().max() > 0.5
    assert difference.abs().max() < 0.01


def test_refined_coefficients_cancel_at_low_frequencies(shared_data):
    # RELION's fits leave out what the CTF has already; large terms that cancel prove order and normalisation.
    particles = read_particles(
        shared_data / "metadata" / "star" / "relion31.6opticsgroups.star", require_images=False
    )
    low = FREQUENCIES[FREQUENCIES.norm(dim=1) < 0.05]
    assert max(abs(c) for optics in particles.optics for c in optics.even_zernike[:1]) > 14.0
    for optics in particles.optics:
        assert even_phase(low, optics.even_zernike).abs().max() < 0.06
