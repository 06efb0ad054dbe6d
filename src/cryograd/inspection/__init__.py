"""What a particle file holds and what looks wrong in it, before anything is computed from it."""
