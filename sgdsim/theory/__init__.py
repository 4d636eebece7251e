"""Generating-function theory beside the simulations."""
