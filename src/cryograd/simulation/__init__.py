"""Particle images of a known molecule."""
