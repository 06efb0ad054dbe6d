"""The errors that a user can cause, each one line long: what is wrong, where, and the remedy."""

# Characters of each part of an error, at most: a value of a file that it repeats may be of any length.
_LONGEST, _END = 500, 100


def _shortened(text: str) -> str:
    """A text, or the beginning and the end of one that nobody would read."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - _END - 1]}…{text[-_END:]}"


class CryogradError(Exception):
    """Bad input, reported as ``error: what, where, remedy`` with exit status 2.

    Of a part that is very long the beginning and the end are kept.

    Parameters
    ----------
    what
        What is wrong, without a final full stop.
    where
        The file, column, image or option that it concerns.
    remedy
        What the user can do about it.
    """

    def __init__(self, what: str, where: object, remedy: str) -> None:
        self.what, self.where, self.remedy = map(_shortened, (what, str(where), remedy))
        super().__init__(f"{self.what}, {self.where}, {self.remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Other processes get errors as what they are made of.
        return type(self), (self.what, self.where, self.remedy)


class FruitlessError(CryogradError):
    """Images from which a run cannot go on, whatever is done to its files: it would come to this again."""
