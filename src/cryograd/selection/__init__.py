"""Which particles of a file are wanted, and the file of these."""
