"""What a run writes: its folder, and the loop around the engine that keeps it up to date."""
