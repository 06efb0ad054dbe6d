"""No two draws of a run are of one generator."""

from itertools import product

import numpy as np
import pytest

from cryograd.draws import Stream, generator

SEEDS, PLACES = (0, 1, 2, 12345), (0, 1, 2, 3, 7, 13)


def first_numbers(seed: int, stream: Stream, *place: int) -> tuple[int, ...]:
    """Two numbers of 64 bits, which different generators do not share."""
    return tuple(generator(seed, stream, *place).integers(2**63, size=2).tolist())


def test_no_two_draws_are_of_one_generator() -> None:
    """NumPy fills seeds up with zeros, so that streams need numbers of their own."""
    drawn = [
        first_numbers(seed, stream, *place)
        for seed in SEEDS
        for stream in Stream.__members__.values()
        for place in product(PLACES, repeat=stream.value[1])
    ]
    assert len(drawn) > 4 * 60
    assert len(set(drawn)) == len(drawn)


def test_a_draw_is_a_function_of_its_name() -> None:
    for stream in Stream:
        place = range(5, 5 + stream.value[1])
        assert first_numbers(3, stream, *place) == first_numbers(3, stream, *place)
        assert generator(3, stream, *place) is not generator(3, stream, *place)


@pytest.mark.parametrize("stream", Stream)
def test_a_draw_that_is_named_by_too_few_or_too_many_integers_is_refused(stream: Stream) -> None:
    count = stream.value[1]
    for wrong in {0, 1, 2, 3} - {count}:
        with pytest.raises(ValueError, match=f"{stream.name} is named by {count} integers, not {wrong}"):
            generator(0, stream, *range(wrong))


def test_places_of_numpy_are_as_good_as_integers() -> None:
    index = np.arange(9)[7]
    assert first_numbers(0, Stream.CLASS, int(index)) == first_numbers(0, Stream.CLASS, index)
