"""The base of every error that simulation raises; a leaf names a rule."""


class SimulationError(Exception):
    """Base: a scenario, or the simulation itself, broke a rule."""


class SuspendedError(SimulationError):
    """A coroutine waits for something that no virtual clock brings."""


class OutOfReachError(SimulationError):
    """A use case asks the in-memory storage for what no scenario reaches."""


class TransactionError(SimulationError):
    """A unit of work is used beside another one, after its end, or against its purpose."""


class VirtualScenarioError(SimulationError):
    """The scenario is missing or malformed, or asks for what a virtual fleet cannot do."""


class ServiceDownError(SimulationError):
    """The virtual service is not running."""


class WhatIfError(SimulationError):
    """A question about a plan cannot be asked: no devices, or a share outside its range."""
