"""What the detector costs on a Cortex-M4F, and what it looks like from outside: one window in, three values out."""

from protocol.feature_layout import FeatureLayout
from protocol.geometry import M4_CLOCK_HZ
from protocol.learning import LABELS
from tinyml.flatbuffer import ModelFacts, TensorFacts
from tinyml.macs import MacCounts

PROFILE = "anomaly-detector"  # in cards
CYCLES_PER_SAMPLE = 200  # FFT, logarithms, distances: modelled, not measured
ERROR_SHARE = 1.0  # a factor of 2 either way


def detector_ms(layout: FeatureLayout, *, clock_hz: int = M4_CLOCK_HZ) -> float:
    """Return the modelled milliseconds of one window."""
    return layout.window_samples * CYCLES_PER_SAMPLE / clock_hz * 1000


def detector_facts(layout: FeatureLayout) -> ModelFacts:
    """Return the detector's tensors, as a model says them of itself."""
    window = TensorFacts((layout.window_samples,), "float32", None)
    return ModelFacts((window,), (TensorFacts((len(LABELS),), "float32", None),), (), MacCounts())
