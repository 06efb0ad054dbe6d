import pickle

from cryograd.errors import CryogradError


def test_of_a_value_of_any_length_the_beginning_and_the_end_are_said() -> None:
    error = CryogradError(f"rlnDefocusU is out of all range: {'9' * 5000}", "row 1 of a.star", "correct it")
    assert len(error.what) == 500
    assert error.what.startswith("rlnDefocusU is out of all range: 999")
    assert error.what.endswith("…" + 100 * "9")
    assert str(error) == f"{error.what}, row 1 of a.star, correct it"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
