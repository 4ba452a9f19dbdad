"""Sensors in model cards and scenarios: what is refused, and when conditions hold."""

import pytest
from pydantic import ValidationError

from protocol.model import InputContract
from protocol.sensing import SensorConditions, SensorKind, SensorSource, SignalContract, SpectralFeatures

FEATURES = {
    "kind": "mfcc",
    "frame_samples": 480,
    "step_samples": 320,
    "bands": 40,
    "low_hz": 20.0,
    "high_hz": 4000.0,
    "coefficients": 10,
}


def features(**changes: object) -> SpectralFeatures:
    return SpectralFeatures.model_validate(FEATURES | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"high_hz": 20.0}, "expected more than 20, found 20"),
        ({"coefficients": 41}, "expected at most 40, found 41"),
        ({"kind": "wavelet"}, "Input should be"),
    ],
)
def test_features_that_cannot_be_are_refused(changes: dict[str, object], text: str) -> None:
    """No bands between two equal frequencies, no more coefficients than bands."""
    with pytest.raises(ValidationError, match=text):
        features(**changes)


def test_signal_holds_its_frames_and_their_frequencies() -> None:
    """A window of samples alone is fine; a band above half the sample rate, or a frame above the window, is not."""
    assert SignalContract(sample_rate_hz=4000, window_samples=256).features is None
    assert SignalContract(sample_rate_hz=8000, window_samples=480, features=features()).window_samples == 480
    with pytest.raises(ValidationError, match="expected at most 2000, found 4000"):
        SignalContract(sample_rate_hz=4000, window_samples=480, features=features())
    with pytest.raises(ValidationError, match="expected at most 256, found 480"):
        SignalContract(sample_rate_hz=8000, window_samples=256, features=features())


def test_card_of_a_listening_model_says_what_it_hears() -> None:
    """A camera has no signal, every other sensor has one; a card that says nothing is of a camera."""
    signal = SignalContract(sample_rate_hz=4000, window_samples=256)
    heard = InputContract(shape=(1, 256), dtype="float32", sensor=SensorKind.MICROPHONE, signal=signal)
    assert heard.signal == signal
    assert InputContract.model_validate({"shape": (1, 2, 2, 3), "dtype": "int8"}).sensor is SensorKind.CAMERA
    with pytest.raises(ValidationError, match="expected one unless a camera is the sensor, found none of a microphone"):
        InputContract(shape=(1, 256), dtype="float32", sensor=SensorKind.MICROPHONE)
    with pytest.raises(ValidationError, match="found one of a camera"):
        InputContract(shape=(1, 256), dtype="float32", signal=signal)


def test_source_names_a_file_for_a_sensor() -> None:
    """Unknown keys are refused as everywhere."""
    source = SensorSource(sensor=SensorKind.MICROPHONE, replay="night.wav")
    assert (source.loops, source.sample_rate_hz) == (True, None)
    with pytest.raises(ValidationError, match="Extra inputs"):
        SensorSource.model_validate({"sensor": "camera", "replay": "photos", "loop": True})


def test_conditions_hold_between_their_times() -> None:
    """Device time; without an end they stay."""
    darkness = SensorConditions(lighting=0.1, starts_seconds=60.0, ends_seconds=90.0)
    assert [darkness.held_seconds(at) for at in (0.0, 60.0, 89.0, 90.0)] == [None, 0.0, 29.0, None]
    assert SensorConditions(noise=0.1, starts_seconds=60.0).held_seconds(1e6) == 1e6 - 60.0


def test_conditions_begin_again_every_day() -> None:
    """A night of eight hours, every day."""
    hour = 3600.0
    night = SensorConditions(lighting=0.0, starts_seconds=22 * hour, ends_seconds=30 * hour, every_seconds=24 * hour)
    held = [night.held_seconds(at * hour) for at in (12, 23, 29, 31, 46, 47, 56)]
    assert held == [None, hour, 7 * hour, None, 0.0, hour, None]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"starts_seconds": 5, "ends_seconds": 5}, "expected more than 5, found 5"),
        ({"every_seconds": 60}, "expected an end"),
        ({"lighting": 1.5}, "less than or equal to 1"),
    ],
)
def test_conditions_that_cannot_be_are_refused(changes: dict[str, object], text: str) -> None:
    """They end after they start, and what recurs has an end."""
    with pytest.raises(ValidationError, match=text):
        SensorConditions.model_validate(changes)
