"""Fixtures of pki's tests."""

from tests.softhsm import softhsm

__all__ = ["softhsm"]
