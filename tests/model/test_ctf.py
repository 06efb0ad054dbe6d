import math

import pytest
import torch
import torch_ctf

from cryograd.data.optics import electron_wavelength
from cryograd.fourier import HalfDisc
from cryograd.model.ctf import ctf, ctf_phase

BOX, PIXEL, VOLTAGE, CS, W = 64, 1.5, 300.0, 2.7, 0.1
DISC = HalfDisc(31)
FREQUENCIES = torch.as_tensor(DISC.frequencies / (BOX * PIXEL))


def ours(u, v, angle, phase=0.0, b_factor=0.0, scale=1.0, w=W):
    columns = (
        torch.tensor([x], dtype=torch.float64) for x in (u, v, math.radians(angle), phase, b_factor, scale)
    )
    return ctf(FREQUENCIES, electron_wavelength(VOLTAGE), CS * 1e7, w, *columns)[0].double()


def theirs(u, v, angle, phase=0.0, w=W):
    image = torch_ctf.calculate_ctf_2d(
        defocus=torch.tensor(0.5e-4 * (u + v), dtype=torch.float64),
        astigmatism=0.5e-4 * (u - v),
        astigmatism_angle=angle,
        voltage=VOLTAGE,
        spherical_aberration=CS,
        amplitude_contrast=w,
        phase_shift=math.degrees(phase),
        pixel_size=PIXEL,
        image_shape=(BOX, BOX),
        rfft=True,
        fftshift=False,
    )
    kx, ky = DISC.frequencies.T
    return image[..., ky % BOX, kx].double().squeeze()


@pytest.mark.parametrize("angle", [0.0, 30.0, 77.0, 145.0])
@pytest.mark.parametrize(("u", "v"), [(8000.0, 8000.0), (12000.0, 9000.0), (25000.0, 21000.0)])
@pytest.mark.parametrize("phase", [0.0, 1.2])
def test_agrees_with_torch_ctf(u, v, angle, phase):
    # What is left comes from the constants in the wavelength and from single precision there.
    assert (ours(u, v, angle, phase) - theirs(u, v, angle, phase)).abs().max() < 3e-3


def test_astigmatism_angle_has_a_sense():
    assert (ours(12000.0, 9000.0, 30.0) - theirs(12000.0, 9000.0, -30.0)).abs().max() > 0.5


def test_is_positive_at_the_origin():
    # Bright particles: the amplitude contrast alone is left at k = 0.
    value = ctf(
        torch.zeros(1, 2),
        electron_wavelength(VOLTAGE),
        CS * 1e7,
        W,
        *(torch.ones(1) * x for x in (1e4, 1e4, 0, 0, 0, 1)),
    )
    assert value.item() == pytest.approx(W)


def test_formula_along_one_direction():
    wavelength, k = electron_wavelength(VOLTAGE), FREQUENCIES.norm(dim=1)
    gamma = math.pi * (0.5 * CS * 1e7 * wavelength**3 * k**4 - wavelength * 15000.0 * k**2)
    expected = torch.sin(-gamma) * math.sqrt(1 - W**2) + torch.cos(gamma) * W
    assert torch.allclose(ours(15000.0, 15000.0, 0.0), expected, atol=1e-6)


def test_envelope_and_scale():
    plain, damped = ours(15000.0, 14000.0, 20.0), ours(15000.0, 14000.0, 20.0, b_factor=90.0, scale=0.7)
    k2 = FREQUENCIES.square().sum(1)
    assert torch.allclose(damped, 0.7 * plain * torch.exp(-90.0 * k2 / 4.0), atol=1e-6)


def test_quarter_turn_of_a_phase_plate_turns_sine_into_cosine():
    gamma = ctf_phase(
        FREQUENCIES,
        electron_wavelength(VOLTAGE),
        CS * 1e7,
        *(torch.tensor([x]) for x in (9000.0, 9000.0, 0.0)),
    )
    shifted = ours(9000.0, 9000.0, 0.0, phase=math.pi / 2, w=0.0)
    assert torch.allclose(shifted, torch.cos(gamma[0]), atol=1e-6)


def test_even_aberrations_add_to_the_phase():
    # RELION's Z_4^0 = 6k⁴ − 6k² + 1, Z_2^0 = 2k² − 1, Z_0^0 = 1: together 6k⁴, a change of Cs.
    added = 0.5 * math.pi * 0.3e7 * electron_wavelength(VOLTAGE) ** 3 / 6.0
    even = (2.0 * added, 0.0, 3.0 * added, 0.0, 0.0, 0.0, added)
    columns = [torch.tensor([x], dtype=torch.float64) for x in (9000.0, 8000.0, 0.4, 0.3, 20.0, 0.9)]
    found = ctf(FREQUENCIES, electron_wavelength(VOLTAGE), CS * 1e7, W, *columns, even_zernike=even)
    expected = ctf(FREQUENCIES, electron_wavelength(VOLTAGE), (CS + 0.3) * 1e7, W, *columns)
    assert torch.allclose(found, expected, atol=1e-6)
