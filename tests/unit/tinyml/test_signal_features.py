"""Features of sound: what they are by definition, and that a stream of them has no seams."""

import numpy as np
import pytest

from protocol.sensing import SignalContract, SpectralFeatures
from tinyml.errors import InputMismatchError
from tinyml.signals import FeatureStream, fft_length, window_rows

RATE = 16_000


def contract(kind: str, **changes: object) -> SignalContract:
    features = {
        "kind": kind,
        "frame_samples": 480,
        "step_samples": 160,
        "bands": 40,
        "low_hz": 125.0,
        "high_hz": 7500.0,
        "coefficients": 40,
    }
    spectral = SpectralFeatures.model_validate(features | changes)
    return SignalContract(sample_rate_hz=RATE, window_samples=RATE, features=spectral)


def tone(hz: float, *, loud: float = 0.5, seconds: float = 1.0) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def noise(seconds: float = 1.0, *, loud: float = 0.1) -> np.ndarray:
    return np.random.default_rng(3).normal(0, loud, int(seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize("kind", ["log-mel", "mfcc", "micro-frontend"])
def test_stream_in_pieces_is_the_stream_as_a_whole(kind: str) -> None:
    """However it is cut, frames that lie across a cut included."""
    sound = noise()
    whole = FeatureStream(contract(kind)).rows(sound)
    pieces = FeatureStream(contract(kind))
    rows = [pieces.rows(piece) for piece in np.split(sound, [100, 480, 481, 7000])]
    np.testing.assert_allclose(np.concatenate(rows), whole, rtol=1e-5, atol=1e-5)
    assert whole.shape == ((RATE - 480) // 160 + 1, 40)
    assert whole.dtype == np.float32


@pytest.mark.parametrize("hz", [300.0, 1000.0, 5000.0])
def test_tone_is_loudest_in_its_own_band(hz: float) -> None:
    """Bands are evenly spaced on the mel scale: 1127 · ln(1 + f / 700)."""
    rows = FeatureStream(contract("log-mel")).rows(tone(hz))
    low, high, found = (1127 * np.log1p(each / 700) for each in (125.0, 7500.0, hz))
    expected = (found - low) / ((high - low) / 41) - 1
    assert abs(rows.mean(axis=0).argmax() - expected) <= 1


def test_tenfold_loudness_adds_the_logarithm_of_a_hundred() -> None:
    """Power, not amplitude."""
    quiet, loud = (FeatureStream(contract("log-mel")).rows(noise(loud=loud)) for loud in (0.01, 0.1))
    assert np.median(loud - quiet) == pytest.approx(np.log(100), rel=1e-3)


def test_cosine_coefficients_keep_the_length_of_a_row() -> None:
    """The DCT-II is orthonormal; the first coefficient is the mean times the root of the number of bands."""
    sound = noise()
    mel = FeatureStream(contract("log-mel")).rows(sound)
    cosine = FeatureStream(contract("mfcc")).rows(sound)
    np.testing.assert_allclose(np.linalg.norm(cosine, axis=1), np.linalg.norm(mel, axis=1), rtol=1e-4)
    np.testing.assert_allclose(cosine[:, 0], mel.mean(axis=1) * np.sqrt(40), rtol=1e-4)
    few = FeatureStream(contract("mfcc", coefficients=10)).rows(sound)
    np.testing.assert_allclose(few, cosine[:, :10])


def test_micro_frontend_takes_steady_noise_away() -> None:
    """What has been there for a while is no signal; what begins is."""
    stream = FeatureStream(contract("micro-frontend"))
    before = stream.rows(noise(4.0, loud=0.02))
    after = stream.rows(tone(1000.0, seconds=0.2))
    assert before[-50:].mean() < 0.6 * before[:10].mean()
    assert after.max() > before[-50:].max() + 3
    assert after.max() < 26  # the scale of an int8 input: 0.102 · 255
    assert FeatureStream(contract("micro-frontend")).rows(np.zeros(RATE, np.float32)).max() == 0


def test_window_has_as_many_rows_as_the_input() -> None:
    """The last frame again, or some left out; stretched, if the contract says so."""
    sound = noise()
    frames = FeatureStream(contract("log-mel")).rows(sound)
    more, fewer = (window_rows(sound, contract("log-mel"), rows) for rows in (100, 50))
    np.testing.assert_array_equal(more, np.concatenate([frames, frames[-1:], frames[-1:]]))
    np.testing.assert_array_equal(fewer, frames[:50])
    stretched = window_rows(sound, contract("log-mel", stretched=True), 50)
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert not window_rows(np.zeros(RATE), contract("log-mel", stretched=True), 5).any()


def test_window_without_a_frame_and_contract_without_features_are_refused() -> None:
    """They would give nothing to infer from."""
    with pytest.raises(InputMismatchError, match="expected a whole frame, found 479 samples"):
        window_rows(np.zeros(479, np.float32), contract("mfcc"), 1)
    with pytest.raises(InputMismatchError, match="expected features in its contract"):
        FeatureStream(SignalContract(sample_rate_hz=RATE, window_samples=10)).rows(np.zeros(10, np.float32))


def test_spectrum_is_as_long_as_the_next_power_of_two() -> None:
    """As the microfrontend's."""
    assert [fft_length(samples) for samples in (256, 257, 480, 512)] == [256, 512, 512, 512]
