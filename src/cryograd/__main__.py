"""``python -m cryograd`` is the command line."""

from cryograd.cli.main import main

main()
