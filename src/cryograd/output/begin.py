"""The beginning of a run in a folder: taken for this run alone, and left as it was if nothing comes of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from cryograd.config import ParticleRun
from cryograd.occupied import occupied
from cryograd.output.folder import RunFolder
from cryograd.output.record import check_same_run


@contextmanager
def begun(folder: RunFolder, config: ParticleRun) -> Iterator[None]:
    """Hold the folder of a run, new or resumed, while the block runs.

    A new run that ends before its first checkpoint, for whatever reason, leaves nothing behind. One that is
    killed so early cannot take away what it wrote, and the next one does it.

    Raises
    ------
    CryogradError
        The folder cannot take this run, or another run is at work there.
    """
    # What can be refused is refused before anything is made.
    folder.check(config.resume)
    folder.create()
    try:
        with occupied(folder.path):
            # The folder may have changed hands since.
            folder.check(config.resume)
            folder.sweep()
            try:
                if config.resume:
                    check_same_run(folder, config)
                else:
                    folder.clear()
                yield
            except BaseException:
                if not folder.checkpoint.exists():
                    folder.clear()
                raise
    except BaseException:
        folder.withdraw()
        raise
