"""From what a sensor takes to input tensors: the contract decides, and says what it expected."""

import numpy as np
import pytest

from device_sim.cores.front_end import FrontEnd
from protocol.model import InputContract
from protocol.sensing import SensorKind, SignalContract, SpectralFeatures
from tinyml.errors import InputMismatchError

FEATURES = SpectralFeatures(
    kind="log-mel", frame_samples=480, step_samples=160, bands=8, low_hz=100.0, high_hz=4000.0, coefficients=8
)
SOUND = SignalContract(sample_rate_hz=16_000, window_samples=16_000, features=FEATURES)


def listening(shape: tuple[int, ...], signal: SignalContract, *, scale: float = 1.0) -> InputContract:
    return InputContract(shape=shape, dtype="float32", scale=scale, sensor=SensorKind.MICROPHONE, signal=signal)


def shaken(shape: tuple[int, ...]) -> InputContract:
    signal = SignalContract(sample_rate_hz=1000, window_samples=256)
    return InputContract(shape=shape, dtype="float32", scale=2.0, sensor=SensorKind.ACCELEROMETER, signal=signal)


def test_photo_becomes_the_image_that_the_card_wants() -> None:
    """Resized and scaled; a tensor that is ready stays as it is."""
    end = FrontEnd(InputContract(shape=(1, 4, 4, 3), dtype="int8", offset=-128.0), is_stateful=False)
    (tensor,) = end.tensors(np.full((8, 8, 3), 100, np.uint8))
    assert (tensor.shape, tensor.dtype.name, int(tensor.max())) == ((1, 4, 4, 3), "int8", -28)
    assert end.tensors(tensor)[0] is tensor
    assert end.steps == 1


def test_vibration_gives_all_axes_or_the_one_across_the_shaft() -> None:
    """As many values as the input has."""
    window = np.arange(256 * 3, dtype=np.float32).reshape(256, 3)
    (every,) = FrontEnd(shaken((1, 256, 3)), is_stateful=False).tensors(window)
    (across,) = FrontEnd(shaken((1, 256)), is_stateful=False).tensors(window)
    np.testing.assert_array_equal(every[0], 2 * window)
    np.testing.assert_array_equal(across[0], 2 * window[:, 0])


def test_model_without_state_gets_one_tensor_of_a_window() -> None:
    """As many rows as its input has."""
    (tensor,) = FrontEnd(listening((1, 50, 8, 1), SOUND), is_stateful=False).tensors(np.ones(16_000, np.float32))
    assert tensor.shape == (1, 50, 8, 1)


def test_model_with_state_goes_on_where_the_last_window_ended() -> None:
    """98 frames, then 100 a second; frames that fill no step wait for the next window; a reset forgets them."""
    end = FrontEnd(listening((1, 3, 8), SOUND), is_stateful=True)
    window = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    counts = [len(end.tensors(window)) for _ in range(3)]
    assert (end.steps, counts, sum(counts)) == (33, [32, 34, 33], (98 + 200) // 3)
    first = FrontEnd(listening((1, 3, 8), SOUND), is_stateful=True).tensors(window)[0]
    end.reset()
    np.testing.assert_array_equal(end.tensors(window)[0], first)


@pytest.mark.parametrize(
    ("contract", "sample", "text"),
    [
        (listening((1, 50, 8, 1), SOUND), np.zeros(100, np.float32), "microphone: expected 16000 samples"),
        (listening((1, 50, 8, 1), SOUND), np.zeros((), np.float32), "microphone: expected 16000 samples"),
        (shaken((1, 512)), np.zeros((256, 3), np.float32), "signal: expected 512 values, found 256"),
        (InputContract(shape=(1, 4, 4, 3), dtype="int8"), np.zeros(100, np.float32), "photo: expected uint8"),
    ],
)
def test_sample_that_the_contract_does_not_call_for_is_refused(
    contract: InputContract, sample: np.ndarray, text: str
) -> None:
    """The message says what was expected."""
    with pytest.raises(InputMismatchError, match=text):
        FrontEnd(contract, is_stateful=False).tensors(sample)
