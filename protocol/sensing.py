"""What devices sense: which sensor a model listens to, where its signal comes from, and what disturbs it.

A model card names the sensor (`protocol.model.InputContract`); a scenario says what the sensors of a fleet are given.
Times are seconds of device time: of a device's own time line, from the start of the scenario.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from protocol.document import Document

MAX_SAMPLE_RATE_HZ = 96_000
MAX_WINDOW_SAMPLES = 262_144
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=366 * 86_400 * 10)]


class SensorKind(StrEnum):
    """A sensor of a device."""

    CAMERA = "camera"
    MICROPHONE = "microphone"
    ACCELEROMETER = "accelerometer"


class MechanicalFault(StrEnum):
    """What is wrong with the machine that an accelerometer sits on."""

    BEARING = "bearing"  # a defect of the outer race: impacts at its frequency ring the structure
    IMBALANCE = "imbalance"  # a heavy spot: more vibration at the shaft's frequency
    LOOSENESS = "looseness"  # a foot has play: harmonics and half orders of the shaft's frequency


class SpectralFeatures(Document):
    """How a sound becomes the rows of an input: frames, power spectrum, mel bands, logarithm, and what follows.

    Attributes:
        kind: `log-mel`: natural logarithms of the bands; `mfcc`: their first cosine coefficients (DCT-II, orthonormal);
            `micro-frontend`: noise reduced and gain controlled as TensorFlow's microfrontend does it.
        frame_samples: length of a frame, under a Hann window.
        step_samples: from one frame to the next.
        bands: triangular, evenly spaced on the mel scale from `low_hz` to `high_hz`.
        coefficients: how many the input takes of each frame: of bands, or of cosine coefficients.
        stretched: whether each window is stretched to 0 to 255, as a picture of it is.
    """

    kind: Literal["log-mel", "mfcc", "micro-frontend"]
    frame_samples: Annotated[int, Field(ge=16, le=8192)]
    step_samples: Annotated[int, Field(ge=1, le=8192)]
    bands: Annotated[int, Field(ge=1, le=256)]
    low_hz: Annotated[float, Field(ge=0)]
    high_hz: Annotated[float, Field(gt=0)]
    coefficients: Annotated[int, Field(ge=1, le=256)]
    stretched: bool = False

    @model_validator(mode="after")
    def _check_bands(self) -> Self:
        if self.high_hz <= self.low_hz:
            raise ValueError(f"high_hz: expected more than {self.low_hz:g}, found {self.high_hz:g}")
        if self.coefficients > self.bands:
            raise ValueError(f"coefficients: expected at most {self.bands}, found {self.coefficients}")
        return self


class SignalContract(Document):
    """The window of a sampled signal that a model takes.

    Attributes:
        window_samples: of one window; a model that keeps state takes it in as many steps as it needs.
        features: what is made of the samples; None: they are the input themselves.
    """

    sample_rate_hz: Annotated[int, Field(ge=1, le=MAX_SAMPLE_RATE_HZ)]
    window_samples: Annotated[int, Field(ge=1, le=MAX_WINDOW_SAMPLES)]
    features: SpectralFeatures | None = None

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        if self.features is None:
            return self
        if self.features.high_hz > self.sample_rate_hz / 2:
            raise ValueError(f"high_hz: expected at most {self.sample_rate_hz / 2:g}, found {self.features.high_hz:g}")
        if self.features.frame_samples > self.window_samples:
            raise ValueError(
                f"frame_samples: expected at most {self.window_samples}, found {self.features.frame_samples}"
            )
        return self


class SensorSource(Document):
    """Where the signal of one kind of sensor comes from; a kind that none is given for is synthesised, or real photos.

    Attributes:
        replay: a WAV or CSV file, or a folder of PNG and JPEG photos.
        sample_rate_hz: of a CSV file, which does not say it; a WAV file does.
        loops: whether it begins again at its end; else the sensor is silent, or dark, from there on.
    """

    sensor: SensorKind
    replay: Annotated[str, Field(min_length=1, max_length=1000)]
    sample_rate_hz: Annotated[int, Field(ge=1, le=MAX_SAMPLE_RATE_HZ)] | None = None
    loops: bool = True


class SensorConditions(Document):
    """What disturbs sensors for a time. Of several that hold at once, every one disturbs.

    Attributes:
        sensor: which; None: all that it makes a difference to.
        lighting: 0 is dark, 1 is daylight; cameras alone.
        noise: standard deviation of what is added, as a share of full scale (accelerometers: of 1 g).
        drift_per_hour: what a sensor gains, or loses, an hour from `starts_seconds` on: of a camera's brightness and a
            microphone's loudness this share, of an accelerometer's zero so many g.
        fault: of the machine under an accelerometer.
        severity: of the fault.
        starts_seconds: device time.
        ends_seconds: device time; None: never.
        every_seconds: begins again so often, such as every day; None: once.
    """

    sensor: SensorKind | None = None
    lighting: Share = 1.0
    noise: Share = 0.0
    drift_per_hour: Annotated[float, Field(ge=-100, le=100)] = 0.0
    fault: MechanicalFault | None = None
    severity: Share = 1.0
    starts_seconds: Seconds = 0.0
    ends_seconds: Seconds | None = None
    every_seconds: Annotated[Seconds, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.ends_seconds is not None and self.ends_seconds <= self.starts_seconds:
            raise ValueError(f"ends_seconds: expected more than {self.starts_seconds:g}, found {self.ends_seconds:g}")
        if self.every_seconds is not None and self.ends_seconds is None:
            raise ValueError("ends_seconds: expected an end where every_seconds is given, found none")
        return self

    def held_seconds(self, at_seconds: float) -> float | None:
        """Return for how long it has held at a moment of device time, or None while it does not hold."""
        since = at_seconds - self.starts_seconds
        if since < 0:
            return None
        if self.every_seconds is not None:
            since %= self.every_seconds
        length = None if self.ends_seconds is None else self.ends_seconds - self.starts_seconds
        return since if length is None or since < length else None
