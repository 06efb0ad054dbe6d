"""Fixtures."""

from stars import images, make_star

__all__ = ["images", "make_star"]
