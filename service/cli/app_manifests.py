"""app_manifest.json of an Azure Sphere application: its name, component id and entry point, checked.

The fields are those of schema version 1 (Microsoft Learn: app-manifest). Capabilities are many and grow with each
release of the OS; those whose limits the chip sets are checked, the others are passed over.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from protocol.document import Document, parse_document
from protocol.geometry import ImageKind
from protocol.identity import IdentityError, parse_guid
from protocol.versions import ImageName
from service.cli.errors import CliError
from service.cli.offered import read_input

MAX_MANIFEST_BYTES = 64 * 1024
MAX_MUTABLE_STORAGE_KB = 64  # of an application


class ManifestError(CliError):
    """The manifest is for another kind of application."""


class ApplicationType(StrEnum):
    """Which core an application is for."""

    DEFAULT = "Default"  # the A7
    REAL_TIME_CAPABLE = "RealTimeCapable"  # an M4


def _any_case_guid(value: str) -> str:
    try:
        return parse_guid(value)
    except IdentityError as error:
        raise ValueError(str(error)) from error


AnyCaseGuid = Annotated[str, AfterValidator(_any_case_guid)]


class MutableStorage(Document):
    """Storage that an application keeps over an update."""

    size_kb: Annotated[int, Field(alias="SizeKB", ge=0, le=MAX_MUTABLE_STORAGE_KB)]


class Capabilities(Document):
    """What an application may do; what is not named here is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peers: tuple[AnyCaseGuid, ...] = Field(default=(), alias="AllowedApplicationConnections")
    connections: tuple[str, ...] = Field(default=(), alias="AllowedConnections")
    storage: MutableStorage | None = Field(default=None, alias="MutableStorage")


class AppManifest(Document):
    """The manifest."""

    schema_version: Literal[1] = Field(alias="SchemaVersion")
    name: ImageName = Field(alias="Name")
    component_id: AnyCaseGuid = Field(alias="ComponentId")
    entry_point: Annotated[str, Field(alias="EntryPoint", min_length=1, max_length=200)]
    arguments: tuple[str, ...] = Field(default=(), alias="CmdArgs")
    capabilities: Capabilities = Field(default=Capabilities(), alias="Capabilities")
    application_type: ApplicationType = Field(default=ApplicationType.DEFAULT, alias="ApplicationType")


def load_manifest(path: Path, kind: ImageKind) -> AppManifest:
    """Read app_manifest.json for an application of the A7 or a firmware of an M4.

    Raises:
        DocumentError: a field is missing, unknown or wrong; names the first.
        ManifestError: it is for another kind of image.
        PackageFileError: the file cannot be read.
    """
    manifest = parse_document(read_input(path, max_bytes=MAX_MANIFEST_BYTES), AppManifest)
    wanted = {
        ImageKind.APPLICATION: ApplicationType.DEFAULT,
        ImageKind.FIRMWARE: ApplicationType.REAL_TIME_CAPABLE,
    }.get(kind)
    if wanted is None:
        raise ManifestError(f"{path}: expected an application or a firmware beside it, found a {kind}")
    if manifest.application_type is not wanted:
        raise ManifestError(
            f"{path}, ApplicationType: expected {wanted} for a {kind}, found {manifest.application_type}"
        )
    _check_entry_point(path, manifest)
    return manifest


def _check_entry_point(path: Path, manifest: AppManifest) -> None:
    # Learn: app-manifest. An application of the A7 names its file in the image, /bin/app; the M4 has no file system.
    is_path = manifest.entry_point.startswith("/") and ".." not in manifest.entry_point.split("/")
    if manifest.application_type is ApplicationType.DEFAULT and not is_path:
        raise ManifestError(f"{path}, EntryPoint: expected a path such as /bin/app, found {manifest.entry_point!r}")
