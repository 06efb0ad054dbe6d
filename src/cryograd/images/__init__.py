"""Particle images at the sampling that the work needs, wherever they are kept."""
