"""Lossy rewrites that make weights and arithmetic narrower, and the choice of where the error allows them."""
