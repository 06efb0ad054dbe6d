from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from cryograd.registry import PRIORS, SOLVERS

# What solvers, their tools and priors are given and return is checked against the types and shapes of their
# signatures, which has to be said before any of them is imported. Of the other packages some have compiled
# kernels and validated models, and checks at every call of the inner loops would take longer than the calls.
CHOICES = [registry.module_of(name) for registry in (SOLVERS, PRIORS) for name in registry.names()]
install_import_hook(["cryograd.steps", "cryograd.objective.prior", *CHOICES], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests: none is left for one of several processes alone to do at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared test data are not at {folder}")
    return folder
