"""The plan of an ab initio run."""

import pytest

from cryograd.solvers.schedule import HOTTEST, March


@pytest.fixture
def march() -> March:
    return March(1000, 5.0, 8.0, 28.0, candidates=4, minibatch=200, select=24, march=32, settle=14)


def test_the_radius_never_falls_and_ends_at_the_last(march: March) -> None:
    radii = [march[i].radius for i in range(march.total)]
    assert radii == sorted(radii)
    assert radii[0] == 5.0
    assert radii[march.select - 1] == 8.0
    assert radii[march.optimisation - 1] == 28.0


def test_starts_are_halved_and_then_one_is_left(march: March) -> None:
    kept = [march[i].candidates for i in range(march.total)]
    assert kept[: march.select] == [4] * 15 + [2] * 8 + [1]
    assert set(kept[march.select :]) == {1}


def test_classes_cool_down_and_are_all_kept() -> None:
    march = March(1000, 5.0, 8.0, 28.0, candidates=3, classes=3)
    steps = [march[i] for i in range(march.total)]
    assert {step.candidates for step in steps} == {3}
    temperatures = [step.temperature for step in steps]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] == HOTTEST
    assert set(temperatures[march.select + march.march // 2 :]) == {1.0}
    assert [step.even for step in steps].index(False) == march.select + march.march
    assert sum(step.even for step in steps) == march.select + march.march


def test_the_last_pass_covers_every_particle(march: March) -> None:
    stages = [march[i].stage for i in range(march.total)]
    assert stages.count("poses") == 5
    assert stages == sorted(stages, key=["starts", "march", "settle", "poses"].index)


def test_the_step_falls_only_while_the_map_settles(march: March) -> None:
    rates = [march[i].rate for i in range(march.optimisation)]
    settling = rates[-march.settle :]
    assert set(rates[: -march.settle]) == {march.rate}
    assert settling == sorted(settling, reverse=True)
    assert settling[-1] == pytest.approx(march.last_rate)


def test_a_small_set_is_one_minibatch() -> None:
    assert March(60, 5.0, 8.0, 20.0)[30].images == 60


def test_there_is_nothing_after_the_end(march: March) -> None:
    with pytest.raises(IndexError):
        march[march.total]
