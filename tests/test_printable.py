import pytest

from cryograd.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("3.5 × 4 Å, 30°\nand more", "3.5 × 4 Å, 30°\nand more"),
        ("a\x1b[31mb\x07\x9b", r"a\x1b[31mb\x07\x9b"),
        ("\udcb5", r"\udcb5"),
        ("a\u202eb\u200d", r"a\u202eb\u200d"),
        ("a\tb\r", r"a\tb\r"),
    ],
)
def test_what_does_not_print_is_written_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
