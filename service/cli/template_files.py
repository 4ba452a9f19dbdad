"""The file that the author of a learning template writes, and the template and card that packing makes of it.

    name: pump-vibration
    version: 1.0.0
    component_id: 6f1e…            # stays the same from version to version
    sensor: accelerometer
    layout: {window_samples: 256, rate_hz: 3200, bands: 16, low_hz: 12.5, high_hz: 1600}
    warm_up_windows: 200           # that each device learns from before it judges
    max_prototypes: 8              # kinds of normal, such as speeds
    sensitivity: 1.0
    policy: keep                   # what a device learned under the template before this one, or reset
    prior: healthy.npy             # windows that are normal on every machine of the kind; a release needs them
    description: Bearing and imbalance of the coolant pump
    licence: Apache-2.0
    requires: {telemetry-app: ">=2.1"}

Windows are .npy files, float32, shape (count, window_samples), in g; the path of `prior` is relative to the file.
"""

import json
from io import BytesIO
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
import yaml
from pydantic import Field

from protocol.document import Document, parse_document
from protocol.feature_layout import FeatureLayout
from protocol.geometry import Core
from protocol.learned_state import MAX_PROTOTYPES
from protocol.learning import (
    LABELS,
    LearningTemplate,
    Prototype,
    Sensitivity,
    StatePolicy,
    encode_template,
    ram_bytes,
)
from protocol.model import (
    GoldenReference,
    Guid,
    InputContract,
    Measured,
    ModelCard,
    ModelKind,
    Notes,
    OutputContract,
    PredictedLatency,
    Version,
)
from protocol.sensing import SensorKind, SignalContract
from protocol.versions import Requirements
from service.cli.errors import CliError
from service.cli.model_cards import with_flash
from service.cli.offered import PackageFileError, read_input
from tinyml.anomaly.cost import ERROR_SHARE, PROFILE, detector_ms
from tinyml.anomaly.detector import AnomalyDetector

MAX_FILE_BYTES = 64 * 1024
MAX_WINDOWS_BYTES = 64 * 1024 * 1024


class TemplateFileError(CliError):
    """The file of a template is not of the expected form."""


class TemplateFile(Document):
    """What the author says; fields as in `LearningTemplate` and `ModelCard`."""

    name: Annotated[str, Field(min_length=1, max_length=24, pattern=r"^[a-z0-9-]+$")]
    version: Version
    component_id: Guid
    sensor: SensorKind = SensorKind.ACCELEROMETER
    layout: FeatureLayout
    warm_up_windows: Annotated[int, Field(ge=1, le=1_000_000)]
    max_prototypes: Annotated[int, Field(ge=1, le=MAX_PROTOTYPES)] = MAX_PROTOTYPES
    sensitivity: Sensitivity = 1.0
    policy: StatePolicy = StatePolicy.KEEP
    prior: Annotated[str, Field(max_length=1000)] = ""
    description: Annotated[str, Field(max_length=1000)] = ""
    licence: Annotated[str, Field(max_length=200)] = ""
    licence_notes: Notes = ""
    trained_on: Notes = ""
    requires: Requirements = Field(default_factory=dict)


def load_template_file(path: Path) -> TemplateFile:
    """Read a template's file.

    Raises:
        TemplateFileError: no YAML mapping, or a camera as its sensor.
        DocumentError: a field is missing, unknown or wrong; names the first.
        PackageFileError: the file cannot be read.
    """
    content = read_input(path, max_bytes=MAX_FILE_BYTES)
    try:
        file = parse_document(json.dumps(yaml.safe_load(content)).encode(), TemplateFile)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise TemplateFileError(f"{path}: expected a template in YAML, found: {error}") from error
    if file.sensor is SensorKind.CAMERA:
        raise TemplateFileError(f"{path}, sensor: expected one with a signal, found {file.sensor}")
    return file


def load_windows(path: Path, layout: FeatureLayout) -> np.ndarray:
    """Read windows; float32, shape (count, window_samples), at least one.

    Raises:
        PackageFileError: the file cannot be read, or holds something else.
    """
    content = read_input(path, max_bytes=MAX_WINDOWS_BYTES)
    try:
        windows = np.load(BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, BadZipFile) as error:  # what looks like a zip is opened as one
        raise PackageFileError(f"{path}: expected a .npy file of windows, found: {error}") from error
    wanted = layout.window_samples
    is_array = isinstance(windows, np.ndarray) and windows.dtype == np.float32 and windows.ndim == 2  # noqa: PLR2004 - windows of samples
    if not is_array or windows.shape[1] != wanted or len(windows) == 0:
        raise PackageFileError(f"{path}: expected float32 windows of shape (count, {wanted}), found another array")
    return np.asarray(windows)


def make_template(file: TemplateFile, folder: Path) -> LearningTemplate:
    """Make the template, with what its prior windows teach a detector.

    Args:
        file: the author's.
        folder: that the path of the prior windows is relative to.

    Raises:
        PackageFileError: the windows cannot be read.
        InputMismatchError: a sample of them is no number.
        TemplateError: it does not fit the memory of a core.
    """
    template = LearningTemplate(
        layout=file.layout,
        max_prototypes=file.max_prototypes,
        sensitivity=file.sensitivity,
        warm_up_windows=file.warm_up_windows,
        policy=file.policy,
    )
    teacher = AnomalyDetector(template, component_id=file.component_id)
    for window in load_windows(folder / file.prior, file.layout) if file.prior else ():
        teacher.learn(window)
    known = teacher.state().prototypes
    prior = tuple(Prototype(windows=each.windows, mean=each.mean, variance=each.variance) for each in known)
    return template.model_copy(update={"prior": prior})


def make_card(
    file: TemplateFile, template: LearningTemplate, *, core: Core, golden: GoldenReference | None
) -> ModelCard:
    """Make the card: what the author says, what is computed, and what is predicted.

    Raises:
        ModelPackageError: the card is too large.
    """
    layout, content = template.layout, encode_template(template)
    signal = SignalContract(sample_rate_hz=layout.rate_hz, window_samples=layout.window_samples)
    ram = ram_bytes(layout, max_prototypes=template.max_prototypes)
    milliseconds = round(detector_ms(layout), 2)
    card = ModelCard(
        name=file.name,
        version=file.version,
        component_id=file.component_id,
        core=core,
        kind=ModelKind.ANOMALY_TEMPLATE,
        input=InputContract(
            shape=(layout.window_samples,), dtype="float32", sensor=file.sensor, signal=signal, meaning="one axis, g"
        ),
        output=OutputContract(
            shape=(len(LABELS),), dtype="float32", meaning="similarity to what is normal, what is left to 1, learning"
        ),
        labels=LABELS,
        measured=Measured(model_bytes=len(content), arena_bytes=ram, macs=0),
        latency=(PredictedLatency(profile=PROFILE, milliseconds=milliseconds, error_share=ERROR_SHARE),),
        golden=golden,
        requires=file.requires,
        description=file.description,
        licence=file.licence,
        licence_notes=file.licence_notes,
        trained_on=file.trained_on,
    )
    return with_flash(card, content)
