"""Decompositions of this project by subject: each module has one table from operator to function."""
