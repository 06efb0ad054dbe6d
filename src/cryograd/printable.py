"""Text from files as a terminal may be given it."""


def printable(text: str) -> str:
    """A text in which characters that do not print are written as escapes, but for line breaks.

    Names in files may hold what a terminal takes for orders, and bytes that are no text.
    """
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )
