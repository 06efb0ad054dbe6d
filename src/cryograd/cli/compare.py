"""``cryograd compare``: two maps after alignment, or the poses of two particle files."""

from typing import Any

from cryograd.config import Compare
from cryograd.validation.comparison import compared

_HANDS = {
    False: "the same hand",
    True: "opposite hands: the second was mirrored",
    None: "hands that cannot be told apart: the second was not mirrored",
}


def run(config: Compare) -> dict[str, Any]:
    """Compare what the two files hold."""
    return compared(config).figures


def summary(result: dict[str, Any]) -> str:
    """The comparison as text."""
    hand = _HANDS[result["hand_flipped"]]
    if result["kind"] == "poses":
        return "\n".join(
            [
                f"{result['n_particles']} particles in common by {result['matched_by']}",
                hand,
                f"orientations differ by {result['median_angle_degrees']:.2f}° in the median",
                f"shifts differ by {result['median_shift_angstrom']:.2f} Å in the median",
            ]
        )
    rotation = ", ".join(f"{angle:.1f}" for angle in result["rotation_vector_degrees"])
    shift = ", ".join(f"{value:.2f}" for value in result["shift_angstrom"])
    lines = [
        f"resolution {_angstrom(result['resolution_fsc05_angstrom'])} at FSC 0.5, "
        f"{_angstrom(result['resolution_fsc143_angstrom'])} at FSC 0.143",
        f"correlation {result['correlation']:.3f}",
        hand,
        f"aligned by the rotation vector ({rotation})° and the shift ({shift}) Å",
    ]
    return "\n".join([*lines, f"aligned map  {result['output']}"] if result["output"] else lines)


def _angstrom(resolution: float | None) -> str:
    return "none" if resolution is None else f"{resolution:.2f} Å"
