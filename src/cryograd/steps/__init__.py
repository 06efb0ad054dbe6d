"""How to step: what solvers are given, what they return, and the tools that they share."""
