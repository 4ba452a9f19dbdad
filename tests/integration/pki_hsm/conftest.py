"""Fixtures of the tests with keys in a token."""

from tests.softhsm import softhsm

__all__ = ["softhsm"]
