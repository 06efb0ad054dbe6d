import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryograd.report.surface import VIEWS, render_surface, surface_level

SIZE = 32


def ellipsoid(*semi_axes: float) -> np.ndarray:
    """Smooth ellipsoid with semi-axes (x, y, z) in voxels at level 0.5."""
    z, y, x = np.mgrid[:SIZE, :SIZE, :SIZE] - float(SIZE // 2)
    radius = np.sqrt(sum((u / a) ** 2 for u, a in zip((x, y, z), semi_axes, strict=True)))
    return 1.0 / (1.0 + np.exp(2.0 * min(semi_axes) * (radius - 1.0)))


def outline(picture: np.ndarray) -> tuple[float, float]:
    """Half width and half height of what is opaque, in fractions of the larger."""
    opaque = picture[..., 3] > 127
    width, height = np.ptp(np.flatnonzero(opaque.any(axis=0))), np.ptp(np.flatnonzero(opaque.any(axis=1)))
    return width / max(width, height), height / max(width, height)


@pytest.mark.parametrize(
    ("view", "width", "height"), [("along x", 8.0, 11.0), ("along y", 5.0, 11.0), ("along z", 5.0, 8.0)]
)
def test_each_view_has_the_right_axes(view: str, width: float, height: float) -> None:
    found = outline(render_surface(ellipsoid(5.0, 8.0, 11.0), 0.5, VIEWS[view], pixels=80))
    expected = (width / max(width, height), height / max(width, height))
    np.testing.assert_allclose(found, expected, atol=0.04)


def test_the_views_are_rotations() -> None:
    for view in VIEWS.values():
        np.testing.assert_allclose(view @ view.T, np.eye(3))
        assert np.linalg.det(view) == pytest.approx(1.0)


def test_a_rotation_turns_the_picture() -> None:
    turned = Rotation.from_euler("z", 90.0, degrees=True).as_matrix()
    plain = render_surface(ellipsoid(5.0, 8.0, 11.0), 0.5, np.eye(3), pixels=64)
    rotated = render_surface(ellipsoid(5.0, 8.0, 11.0), 0.5, turned, pixels=64)
    difference = np.abs(np.rot90(plain[..., 3]).astype(int) - rotated[..., 3]) > 127
    assert difference.mean() < 0.01


def test_right_and_up_are_not_mirrored() -> None:
    z, y, x = np.mgrid[:SIZE, :SIZE, :SIZE] - float(SIZE // 2)
    arm_x = np.exp(-0.5 * ((x - 5) ** 2 / 9.0 + y**2 + z**2))
    arm_y = np.exp(-0.5 * (x**2 + (y - 9) ** 2 / 9.0 + z**2))
    opaque = render_surface(arm_x + arm_y, 0.5, np.eye(3), pixels=60)[..., 3] > 127
    rows, columns = np.nonzero(opaque)
    assert columns.mean() > 30  # x points to the right
    assert rows.mean() < 30  # y points up


def test_the_nearer_surface_is_seen() -> None:
    z, y, x = np.mgrid[:SIZE, :SIZE, :SIZE] - float(SIZE // 2)
    front = np.exp(-0.5 * (x**2 + y**2 + (z - 8) ** 2) / 4.0)
    back = np.exp(-0.5 * ((x + 7) ** 2 + y**2 + (z + 8) ** 2) / 4.0)
    picture = render_surface(front + back, 0.5, np.eye(3), pixels=80)
    left = picture[40, :40][picture[40, :40, 3] == 255]
    centre = picture[40, 38:42]
    # Depth fades to white.
    assert left[..., :3].mean() > centre[..., :3].mean() + 10


def test_nothing_above_the_level_is_a_transparent_picture() -> None:
    picture = render_surface(np.zeros((16, 16, 16)), 1.0, np.eye(3), pixels=20)
    assert picture.shape == (20, 20, 4)
    assert not picture[..., 3].any()


def test_odd_boxes_are_drawn_in_the_middle() -> None:
    z, y, x = np.mgrid[:33, :33, :33] - 16.0
    picture = render_surface(np.exp(-0.5 * (x**2 + y**2 + z**2) / 16.0), 0.5, np.eye(3), pixels=60)
    rows, columns = np.nonzero(picture[..., 3] > 127)
    assert rows.mean() == pytest.approx(29.5, abs=0.7)
    assert columns.mean() == pytest.approx(29.5, abs=0.7)


def test_the_level_separates_a_molecule_from_noise() -> None:
    rng = np.random.default_rng(0)
    inside = ellipsoid(7.0, 7.0, 7.0) > 0.5
    volume = 3.0 * inside + rng.normal(0.0, 0.4, inside.shape)
    level = surface_level(volume)
    assert np.mean((volume > level) == inside) > 0.99


def test_the_level_of_a_constant_map_is_its_value() -> None:
    assert surface_level(np.full((4, 4, 4), 2.0)) == 2.0
