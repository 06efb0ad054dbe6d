"""The errors that a user can cause, each one line long: what is wrong, where, and the remedy."""


class CryogradError(Exception):
    """Bad input, reported as ``error: what, where, remedy`` with exit status 2.

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
        self.what, self.where, self.remedy = what, str(where), remedy
        super().__init__(f"{what}, {where}, {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Other processes get errors as what they are made of.
        return type(self), (self.what, self.where, self.remedy)


class FruitlessError(CryogradError):
    """Images from which a run cannot go on, whatever is done to its files: it would come to this again."""
