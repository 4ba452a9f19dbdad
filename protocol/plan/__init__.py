"""Rollout plans: how a release is brought to a group, and what stops it. YAML or JSON, kept with the rollout.

    document    the whole file
    stages      how far each stage reaches, and what it must have shown
    hold_out    which devices get it last, to compare with
    pace        how fast devices are given the release
    retries     which failed devices are given it again
    timing      when a device gets it: maintenance windows, disruption budget, deferral
    gates       what halts the rollout and what lets a stage pass
    shadow      what a model must show unheard before any device runs it
    presets     plans to begin with: careful, standard, emergency

An unknown key, a number that makes no test, or stages that do not rise are errors that say where.
"""

from protocol.plan.document import Plan
from protocol.plan.gates import (
    ControlGate,
    EvidenceGates,
    FailureGate,
    HealthEvent,
    MeanGate,
    Metric,
    ThresholdGates,
)
from protocol.plan.hold_out import HoldOut
from protocol.plan.pace import Pace
from protocol.plan.presets import PRESETS, merge_preset
from protocol.plan.retries import Retries
from protocol.plan.shadow import Shadow
from protocol.plan.stages import PlanStage
from protocol.plan.timing import Deferral, Disruption, Weekday, Window

__all__ = [
    "PRESETS",
    "ControlGate",
    "Deferral",
    "Disruption",
    "EvidenceGates",
    "FailureGate",
    "HealthEvent",
    "HoldOut",
    "MeanGate",
    "Metric",
    "Pace",
    "Plan",
    "PlanStage",
    "Retries",
    "Shadow",
    "ThresholdGates",
    "Weekday",
    "Window",
    "merge_preset",
]
