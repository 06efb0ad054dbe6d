"""The engine: tracks that move by what images say of them, in one loop."""
