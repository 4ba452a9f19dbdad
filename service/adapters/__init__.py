"""Implementations of the ports of `service.application` on real databases, files and clocks."""
