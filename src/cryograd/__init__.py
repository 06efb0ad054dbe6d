"""Cryo-EM 3D reconstruction by stochastic gradient optimisation with marginalised poses."""

__version__ = "0.1.0"
