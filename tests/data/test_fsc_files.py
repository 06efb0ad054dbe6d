from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import starfile

from cryograd.data.fsc_files import write_fsc_star, write_fsc_xml

EXTENT = 240.0
CURVES = {
    "corrected": [-1.0, 0.98, 0.5, 0.1],
    "unmasked": [-1.0, 0.9, 0.3, 0.0],
    "masked": [-1.0, 0.98, 0.6, 0.28],
    "randomised": [-1.0, 0.98, 0.2, 0.2],
}
# A file of RELION's own has these blocks and columns, in this order.
COLUMNS = [
    "rlnSpectralIndex",
    "rlnResolution",
    "rlnAngstromResolution",
    "rlnFourierShellCorrelationCorrected",
    "rlnFourierShellCorrelationUnmaskedMaps",
    "rlnFourierShellCorrelationMaskedMaps",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
]


def test_relions_layout(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fsc.star"
    write_fsc_star(path, EXTENT, **CURVES, resolution=81.5, b_factor=120.0, randomised_from=2)
    blocks = starfile.read(path)
    assert list(blocks) == ["general", "fsc"]
    assert blocks["general"] == {
        "rlnFinalResolution": 81.5,
        "rlnBfactorUsedForSharpening": -120.0,
        "rlnRandomiseFrom": 120.0,
    }
    table = blocks["fsc"]
    assert list(table) == COLUMNS
    assert table["rlnSpectralIndex"].tolist() == [0, 1, 2, 3]
    assert table["rlnAngstromResolution"].tolist() == [999.0, 240.0, 120.0, 80.0]
    np.testing.assert_allclose(table["rlnResolution"], [1 / 999, 1 / 240, 2 / 240, 3 / 240], atol=1e-6)
    for column, name in zip(COLUMNS[3:], ("corrected", "unmasked", "masked", "randomised"), strict=True):
        assert table[column].tolist() == [1.0, *CURVES[name][1:]]


def test_maps_that_agree_nowhere_have_no_resolution(tmp_path: Path) -> None:
    path = tmp_path / "fsc.star"
    write_fsc_star(path, EXTENT, **CURVES, resolution=None, b_factor=0.0, randomised_from=None)
    general = starfile.read(path)["general"]
    assert general == {"rlnFinalResolution": 999.0, "rlnBfactorUsedForSharpening": 0.0}
    assert "-0.0" not in path.read_text()


def test_emdbs_layout(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fsc.xml"
    write_fsc_xml(path, EXTENT, CURVES["corrected"], "masked & corrected")
    root = ElementTree.parse(path).getroot()
    assert root.tag == "fsc"
    assert root.attrib == {
        "title": "masked & corrected",
        "xaxis": "Resolution (A-1)",
        "yaxis": "Correlation Coefficient",
    }
    assert [[child.tag for child in point] for point in root] == [["x", "y"]] * 4
    values = np.array([[float(child.text or "") for child in point] for point in root])
    np.testing.assert_allclose(values[:, 0], np.arange(4) / EXTENT, atol=1e-6)
    assert values[:, 1].tolist() == [1.0, 0.98, 0.5, 0.1]


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "fsc.xml"
    write_fsc_xml(path, EXTENT, [1.0, 0.5], "first")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_fsc_xml(path, EXTENT, [1.0, 0.4], title=None)  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
