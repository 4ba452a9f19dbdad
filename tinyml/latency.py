"""How long a model takes on a Cortex-M4, modelled from its multiply-accumulates.

    cycles = k1 · convolution + k2 · (depthwise + few channels) + k3 · fully connected

The coefficients are fitted to the MLPerf Tiny results of four software stacks on the four models of that benchmark
(NUCLEO-L4R5ZI at 120 MHz; NuMaker-M467 at 200 MHz for ONNC). The stack alone moves the result 6.8-fold, so a profile
is always named. Cache and flash wait states differ between boards and are inside the error band.
"""

from dataclasses import dataclass
from enum import Enum

from protocol.geometry import M4_CLOCK_HZ
from tinyml.macs import MacCounts

_SEPARABLE_BAND = 0.35  # on models of depthwise-separable convolutions (MobileNet, DS-CNN), which the fit is good for
_OTHER_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """Cost of a software stack in cycles per multiply-accumulate.

    Attributes:
        name: the stack.
        convolution: k1, convolutions with at least 4 input channels.
        depthwise: k2, depthwise convolutions and those with fewer input channels.
        fully_connected: k3.
        source: the system of MLPerf Tiny that it is fitted to.
    """

    name: str
    convolution: float
    depthwise: float
    fully_connected: float
    source: str


class Profile(Enum):
    """The software stacks that the model knows."""

    REFERENCE = LatencyProfile("reference", 6.6, 16.7, 4.4, "MLPerf Tiny, L4R5 120 MHz, TFLM reference kernels")
    MICROTVM_CMSIS_NN = LatencyProfile(
        "microtvm-cmsis-nn", 3.6, 8.5, 3.7, "MLPerf Tiny, L4R5 120 MHz, microTVM with CMSIS-NN"
    )
    ONNC = LatencyProfile("onnc", 2.6, 8.0, 3.5, "MLPerf Tiny, M467 200 MHz, ONNC")
    X_CUBE_AI = LatencyProfile("x-cube-ai", 1.5, 2.4, 2.2, "MLPerf Tiny, L4R5 120 MHz, X-CUBE-AI")


@dataclass(frozen=True, slots=True)
class LatencyEstimate:
    """A modelled latency in milliseconds and the band that it is good for.

    Attributes:
        ms: the model's figure.
        low_ms: lower end of the band.
        high_ms: upper end of the band.
        band: how good the figure is, in words.
        error_share: the same as a share of the figure; from 1 on, a factor of 1 + share either way.
        profile: name of the software stack.
        source: what the coefficients are fitted to.
    """

    ms: float
    low_ms: float
    high_ms: float
    band: str
    error_share: float
    profile: str
    source: str


def predict(macs: MacCounts, profile: Profile, *, clock_hz: int = M4_CLOCK_HZ) -> LatencyEstimate:
    """Model the latency of one inference on a Cortex-M4.

    Args:
        macs: multiply-accumulates of the model.
        profile: the software stack.
        clock_hz: clock of the core.
    """
    stack = profile.value
    cycles = (
        stack.convolution * macs.convolution
        + stack.depthwise * (macs.depthwise + macs.few_channels)
        + stack.fully_connected * macs.fully_connected
    )
    ms = cycles / clock_hz * 1000
    separable = macs.depthwise > 0 and macs.convolution > 0 and not macs.uncounted
    low, high = (1 - _SEPARABLE_BAND, 1 + _SEPARABLE_BAND) if separable else (1 / _OTHER_FACTOR, _OTHER_FACTOR)
    return LatencyEstimate(
        ms=ms,
        low_ms=ms * low,
        high_ms=ms * high,
        band="±35 %" if separable else "a factor of 2 or worse",
        error_share=_SEPARABLE_BAND if separable else _OTHER_FACTOR - 1,
        profile=stack.name,
        source=stack.source,
    )
