"""Scenarios: what a simulated fleet is made of and what goes wrong in it; read by device-sim and by simulation/.

A scenario is a YAML or JSON file. Every key that is left out has the value of a quiet fleet; an unknown key, an
impossible value or a name that nothing declares is an error that says where, before any device starts.

    document    the whole file
    fleets      how many devices of which kind, at which fidelity
    hardware    revisions of the board and their defects
    network     regions and the quality of their networks
    faults      what goes wrong: by share, by model, by release, by hardware
    happenings  what happens to the fleet at a time: outages, reboot storms, darkness, clones, thieves
    rollouts    releases and rollouts of virtual devices, which have no operator
    values      shares and lengths of time
"""

from protocol.scenario.document import Scenario
from protocol.scenario.faults import FaultKind, KernelFault

__all__ = ["FaultKind", "KernelFault", "Scenario"]
