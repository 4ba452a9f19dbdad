"""The modelled latency of a Cortex-M4."""

import pytest

from tinyml.latency import Profile, predict
from tinyml.macs import MacCounts

_SEPARABLE = MacCounts(convolution=6_000_000, few_channels=500_000, depthwise=800_000, fully_connected=512)


def test_latency_is_cycles_over_clock() -> None:
    """1 M convolution MACs at 6.6 cycles take 33 ms at 200 MHz, 55 ms at 120 MHz."""
    macs = MacCounts(convolution=1_000_000)
    assert predict(macs, Profile.REFERENCE).ms == pytest.approx(33.0)
    assert predict(macs, Profile.REFERENCE, clock_hz=120_000_000).ms == pytest.approx(55.0)


def test_band_is_narrow_for_separable_convolutions_only() -> None:
    """±35 % where the fit holds, a factor of 2 elsewhere, and wide again when operators are not counted."""
    narrow = predict(_SEPARABLE, Profile.ONNC)
    assert [narrow.low_ms / narrow.ms, narrow.high_ms / narrow.ms] == pytest.approx([0.65, 1.35])
    assert narrow.error_share == pytest.approx(0.35)
    for macs in (MacCounts(convolution=1000), MacCounts(convolution=9, depthwise=9, uncounted=("SVDF",))):
        wide = predict(macs, Profile.ONNC)
        assert [wide.low_ms / wide.ms, wide.high_ms / wide.ms] == pytest.approx([0.5, 2.0])
        assert wide.band == "a factor of 2 or worse"
        assert wide.error_share == pytest.approx(1.0)


def test_estimate_names_its_profile_and_source() -> None:
    """A figure never stands without the software stack that it is for."""
    for profile in Profile:
        estimate = predict(_SEPARABLE, profile)
        assert estimate.profile == profile.value.name
        assert "MLPerf Tiny" in estimate.source
