"""Synthesised sound and vibration, and what conditions do to every sensor."""

from collections.abc import Sequence

import numpy as np
import pytest

from device_sim.sensors.accelerometer import Accelerometer
from device_sim.sensors.fitted import FittedSensors, Surfaces
from device_sim.sensors.microphone import Microphone
from device_sim.sensors.recorded import SAMPLES, RecordedSensors, SampleLibrary
from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.model import InputContract
from protocol.sensing import MechanicalFault, SensorConditions, SensorKind, SignalContract
from tinyml.photos import load_photos

ONE, OTHER = DeviceId("1" * 128), DeviceId("2" * 128)
RATE = 4000
PHOTO = InputContract(shape=(1, 32, 32, 3), dtype="float32")
SOUND = InputContract(
    shape=(1, 1600),
    dtype="float32",
    sensor=SensorKind.MICROPHONE,
    signal=SignalContract(sample_rate_hz=16000, window_samples=1600),
)
VIBRATION = InputContract(
    shape=(1, 1024, 3),
    dtype="float32",
    sensor=SensorKind.ACCELEROMETER,
    signal=SignalContract(sample_rate_hz=RATE, window_samples=1024),
)
CONTRACTS = (PHOTO, SOUND, VIBRATION)


def sensors(device: DeviceId = ONE, *conditions: SensorConditions, seed: int = 1) -> FittedSensors:
    return FittedSensors(device, Surfaces(load_photos()), conditions=conditions, seed=seed)


def take(fitted: FittedSensors, contract: InputContract, at: float = 0.0) -> np.ndarray:
    return fitted.take(Core.M4_0, contract, at_seconds=at)


def spectrum(samples: np.ndarray) -> np.ndarray:
    """Amplitude by frequency, 1 Hz apart for a second of samples."""
    return np.abs(np.fft.rfft(samples - samples.mean()) / len(samples) * 2)


def kurtosis(samples: np.ndarray) -> float:
    centred = samples - samples.mean()
    return float((centred**4).mean() / (centred**2).mean() ** 2)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_same_device_and_seed_sense_the_same(contract: InputContract) -> None:
    """Another device, or another seed, something else."""

    def windows(device: DeviceId, seed: int) -> list[bytes]:
        fitted = sensors(device, seed=seed)
        return [take(fitted, contract).tobytes() for _ in range(3)]

    assert windows(ONE, 1) == windows(ONE, 1)
    assert windows(ONE, 1) not in (windows(OTHER, 1), windows(ONE, 2))


def test_windows_of_a_signal_join_without_a_seam() -> None:
    """Two windows are what one of twice the length would have been."""
    room, machine = Microphone(ONE, stream="m4-0"), Accelerometer(ONE, stream="m4-0")
    for signal in (room.hear, machine.feel):
        parts = [signal(start, 1500, RATE) for start in (0, 1500)]
        np.testing.assert_array_equal(np.concatenate(parts), signal(0, 3000, RATE))


def test_sound_is_a_room_with_a_voice() -> None:
    """Within full scale, much louder while somebody speaks."""
    sound = Microphone(ONE, stream="m4-0").hear(0, 6 * 16000, 16000)
    blocks = sound.reshape(-1, 1600).std(axis=1)
    assert sound.dtype.name == "float32"
    assert np.abs(sound).max() < 1
    assert blocks.max() > 5 * np.median(blocks)


def test_healthy_machine_turns_quietly() -> None:
    """Its shaft's frequency is what is felt most, beside gravity on y."""
    machine = Accelerometer(ONE, stream="m4-0")
    felt = machine.feel(0, RATE, RATE)
    assert felt.mean(axis=0) == pytest.approx([0, 1, 0], abs=0.01)
    assert abs(spectrum(felt[:, 0]).argmax() - machine.shaft_hz) <= 1
    assert felt.std() < 0.6


def test_faults_have_the_signatures_of_their_kind() -> None:
    """Imbalance: once a turn. Looseness: half a turn, too. Bearing: impacts, which kurtosis shows."""
    machine = Accelerometer(ONE, stream="m4-0")
    healthy = machine.feel(0, RATE, RATE)[:, 0]
    felt = {fault: machine.feel(0, RATE, RATE, faults={fault: 1.0})[:, 0] for fault in MechanicalFault}
    shaft, half = round(machine.shaft_hz), round(machine.shaft_hz / 2)
    turns = {fault: spectrum(samples) for fault, samples in felt.items()}
    assert turns[MechanicalFault.IMBALANCE][shaft - 1 : shaft + 2].max() > 0.4
    assert (
        turns[MechanicalFault.LOOSENESS][half - 1 : half + 2].max() > 10 * spectrum(healthy)[half - 1 : half + 2].max()
    )
    assert kurtosis(felt[MechanicalFault.BEARING]) > 2 * kurtosis(healthy)
    assert kurtosis(felt[MechanicalFault.IMBALANCE]) < kurtosis(healthy) + 0.5


def test_severity_grows_a_fault() -> None:
    """Nothing at 0, a third at a third."""
    machine = Accelerometer(ONE, stream="m4-0")
    healthy = machine.feel(0, 500, RATE)
    deltas = [
        machine.feel(0, 500, RATE, faults={MechanicalFault.BEARING: severity}) - healthy for severity in (0.0, 0.3, 0.9)
    ]
    assert not deltas[0].any()
    np.testing.assert_allclose(3 * deltas[1], deltas[2], atol=1e-5)


def brightness(fitted: FittedSensors, at: float) -> float:
    return float(take(fitted, PHOTO, at).mean())


def test_light_that_goes_darkens_the_photos_for_its_time() -> None:
    """A hundredth of the light: an eighth of the pixels' values (sRGB)."""
    night = SensorConditions(lighting=0.01, starts_seconds=60, ends_seconds=90)
    fitted, daylight = sensors(ONE, night), sensors(ONE)
    shares = [brightness(fitted, at) / brightness(daylight, at) for at in (0, 60, 89, 90)]
    assert shares == pytest.approx([1, 0.123, 0.123, 1], abs=0.02)


def test_photos_without_a_disturbance_are_the_photos() -> None:
    """Not even a rounding."""
    calm = SensorConditions(noise=0.5, starts_seconds=1000)
    np.testing.assert_array_equal(take(sensors(ONE, calm), PHOTO), take(sensors(ONE), PHOTO))


@pytest.mark.parametrize(("contract", "scale"), [(PHOTO, 255.0), (SOUND, 1.0), (VIBRATION, 1.0)])
def test_noise_and_drift_disturb_every_sensor(contract: InputContract, scale: float) -> None:
    """Noise as much as is said; drift with the hours."""
    calm = take(sensors(), contract).astype(float)
    noisy = take(sensors(ONE, SensorConditions(noise=0.02)), contract) - calm
    assert noisy.std() / scale == pytest.approx(0.02, rel=0.25)
    drifting = sensors(ONE, SensorConditions(drift_per_hour=0.1))
    np.testing.assert_allclose(take(drifting, contract, at=0.0), calm, atol=1e-6)
    later = [
        take(each, contract, at=3600.0).astype(float)
        for each in (sensors(), sensors(ONE, SensorConditions(drift_per_hour=0.1)))
    ]
    assert np.abs(later[1] - later[0]).mean() > 0


def test_conditions_of_another_sensor_do_not_matter() -> None:
    """Each knows whom it disturbs."""
    deaf = SensorConditions(sensor=SensorKind.MICROPHONE, noise=0.5)
    np.testing.assert_array_equal(take(sensors(ONE, deaf), VIBRATION), take(sensors(), VIBRATION))
    assert np.abs(take(sensors(ONE, deaf), SOUND) - take(sensors(), SOUND)).std() > 0.1


def test_fault_in_a_scenario_reaches_the_accelerometer() -> None:
    """For as long as it holds; the stronger of two of a kind counts."""
    faults = [
        SensorConditions(fault=MechanicalFault.IMBALANCE, severity=severity, starts_seconds=10)
        for severity in (0.2, 1.0)
    ]
    shaken = [np.ptp(take(sensors(ONE, *faults), VIBRATION, at)[:, 0]) for at in (0.0, 10.0)]
    assert shaken[1] > 5 * shaken[0]


def recorded(device: DeviceId, conditions: Sequence[SensorConditions] = ()) -> RecordedSensors:
    return RecordedSensors(device, SampleLibrary(Surfaces(load_photos())), conditions=conditions)


def test_light_devices_share_samples_that_are_ready() -> None:
    """Input tensors, the same arrays for all, from a place of each device's own on."""
    library = SampleLibrary(Surfaces(load_photos()))
    one, other = (RecordedSensors(device, library) for device in (ONE, OTHER))
    first = [one.take(Core.M4_0, PHOTO, at_seconds=0.0) for _ in range(SAMPLES)]
    assert {id(sample) for sample in first} == {
        id(other.take(Core.M4_1, PHOTO, at_seconds=5.0)) for _ in range(SAMPLES)
    }
    assert (first[0].shape, first[0].dtype.name, first[0].flags.writeable) == ((1, 32, 32, 3), "float32", False)
    assert one.take(Core.M4_0, PHOTO, at_seconds=0.0) is first[0]


def test_light_devices_are_disturbed_in_steps() -> None:
    """The same darkness, the same samples; daylight has others."""
    fading = SensorConditions(lighting=0.51, starts_seconds=10, drift_per_hour=-0.001)
    light = recorded(ONE, [fading])
    day, dusk, later = (light.take(Core.M4_0, PHOTO, at_seconds=at) for at in (0.0, 10.0, 60.0))
    assert dusk.mean() < 0.9 * day.mean()
    assert later.mean() < 0.9 * day.mean()
    shaken = recorded(ONE, [SensorConditions(fault=MechanicalFault.IMBALANCE)])
    assert np.ptp(shaken.take(Core.M4_0, VIBRATION, at_seconds=0.0)[0, :, 0]) > 1


def test_vowel_is_the_sum_of_its_harmonics() -> None:
    """The recurrence gives what each harmonic as loud as the formants let it be adds up to."""
    microphone = Microphone(ONE, stream="m4-0")
    at, formants = np.arange(500) / 16_000 + 7.0, np.array([730.0, 1090.0, 2440.0])
    numbers = np.arange(1, int(4000 / microphone._pitch_hz))
    gains = (1 / (1 + ((numbers[:, None] * microphone._pitch_hz - formants) / 90.0) ** 2)).sum(axis=1)
    waves = np.sin(2 * np.pi * microphone._pitch_hz * numbers[:, None] * at)
    np.testing.assert_allclose(microphone._vowel(at, formants), gains @ waves / gains.sum(), atol=1e-9)
