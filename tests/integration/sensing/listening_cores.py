"""Cores that listen: real models out of the cache, their cards, and a core that runs one."""

import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from device_sim.cores.kernels import Inference
from device_sim.cores.m4 import M4Core
from device_sim.sensors.replay import Recording, read_recording
from protocol.geometry import Core, ImageKind
from protocol.image import IMAGE_TYPE, ImageInfo, compose, verify_package
from protocol.model import InputContract, Measured, ModelCard, compose_model_payload
from protocol.sensing import SensorKind, SensorSource, SignalContract, SpectralFeatures
from protocol.signing import SoftwareSigner
from tinyml.fetch import fetch_model
from tinyml.latency import Profile

RATE = 16_000
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "unknown", "background")
KEYWORDS = InputContract(
    shape=(1, 50, 10, 1),
    dtype="float32",
    sensor=SensorKind.MICROPHONE,
    signal=SignalContract(
        sample_rate_hz=RATE,
        window_samples=RATE,
        features=SpectralFeatures(
            kind="log-mel",
            frame_samples=480,
            step_samples=320,
            bands=10,
            low_hz=20.0,
            high_hz=4000.0,
            coefficients=10,
            stretched=True,
        ),
    ),
)
WAKE_SCALE, WAKE_ZERO = 0.10196078568696976, -128
WAKE = InputContract(
    shape=(1, 3, 40),
    dtype="int8",
    scale=1 / WAKE_SCALE,
    offset=WAKE_ZERO,
    sensor=SensorKind.MICROPHONE,
    signal=SignalContract(
        sample_rate_hz=RATE,
        window_samples=RATE,
        features=SpectralFeatures(
            kind="micro-frontend",
            frame_samples=480,
            step_samples=160,
            bands=40,
            low_hz=125.0,
            high_hz=7500.0,
            coefficients=40,
        ),
    ),
)


def spoken(word: str) -> Recording:
    """A word that a synthesiser spoke (eSpeak NG 1.51, `-v en-us`), 16 kHz."""
    return read_recording(SensorSource(sensor=SensorKind.MICROPHONE, replay=f"{word}.wav"), Path(__file__).parent)


def in_silence(word: str, *, seconds: int, at: float) -> np.ndarray:
    """A word in a quiet room: float32, full scale ±1."""
    sound = np.random.default_rng(1).normal(0, 0.0005, seconds * RATE)
    samples, start = spoken(word).samples[:, 0], int(at * RATE)
    sound[start : start + samples.size] += samples
    return sound.astype(np.float32)


def listening_core(
    model: str, contract: InputContract, labels: tuple[str, ...], *, arena: int, pool: Inference, device_id: str = "one"
) -> M4Core:
    """A core that runs a fetched model."""
    key, content = SoftwareSigner.generate(), fetch_model(model).read_bytes()
    card = ModelCard(
        name=model,
        version="1.0.0",
        component_id=str(uuid.uuid5(uuid.NAMESPACE_URL, model)),
        core=Core.M4_0,
        input=contract,
        labels=labels,
        measured=Measured(model_bytes=len(content), arena_bytes=arena, macs=0),
    )
    info = ImageInfo(
        image_type=IMAGE_TYPE[ImageKind.MODEL],
        component_id=card.component_id,
        image_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{model} image")),
        name=f"{model}@1.0.0",
        security_version=1,
        built_at=datetime(2026, 11, 1, tzinfo=UTC),
    )
    package = compose(compose_model_payload(card, content), info, key)
    image = verify_package(package, [key.public_key], kind=ImageKind.MODEL)
    core = M4Core(Core.M4_0, pool=pool, profile=Profile.REFERENCE, device_id=device_id)
    core.start(image, image)  # the runtime's content does not run
    return core


def wake_core(pool: Inference, device_id: str = "one") -> M4Core:
    """A core that waits for "okay nabu"."""
    return listening_core("wake-okay-nabu", WAKE, ("okay nabu",), arena=40_000, pool=pool, device_id=device_id)


def keyword_core(pool: Inference) -> M4Core:
    """A core that knows ten words."""
    return listening_core("keyword-spotting", KEYWORDS, WORDS, arena=40_000, pool=pool)
