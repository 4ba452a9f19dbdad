"""What a unit of work stores of documents, of what is inside images, and of what vulnerabilities mean to it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from packageurl import PackageURL

from protocol.geometry import Slot
from protocol.updates import DocumentKind
from service.domain.errors import InvalidError


class ComponentQueryError(InvalidError):
    """Nothing says which component is looked for."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document that is in force.

    Attributes:
        path: its target name.
        subject: image id, or name of a release.
        number: the order in which documents came into force; 0 before it is stored.
    """

    path: str
    kind: DocumentKind
    subject: str
    sha256: str
    length: int
    created_at: datetime
    number: int = 0


@dataclass(frozen=True, slots=True)
class ListedComponent:
    """A component that an image's bill of materials lists; the image itself is one.

    Attributes:
        image_sha256: of the image package, hex.
        purl: package URL; empty where there is none.
        number: the order of listing; 0 before it is stored.
    """

    image_sha256: str
    type: str
    name: str
    version: str
    purl: str
    number: int = 0

    @property
    def package(self) -> str:
        """The package URL without version, qualifiers and subpath; empty where there is none."""
        return _package(PackageURL.from_string(self.purl)) if self.purl else ""


@dataclass(frozen=True, slots=True)
class ComponentQuery:
    """Which components are looked for; what is None may be anything, and one of name and package is given.

    Attributes:
        name: in any case of letters.
        package: package URL without version, qualifiers and subpath.
    """

    name: str | None = None
    version: str | None = None
    package: str | None = None

    @classmethod
    def parse(cls, *, name: str | None = None, version: str | None = None, purl: str | None = None) -> Self:
        """Make a query of what a person gave; a package URL's own version goes before `version`.

        Raises:
            ComponentQueryError: neither name nor package URL, or one that is none.
        """
        if purl is None:
            if name is None:
                raise ComponentQueryError("component: expected a name or a package URL, found neither")
            return cls(name, version)
        try:
            parsed = PackageURL.from_string(purl)
        except ValueError as error:
            raise ComponentQueryError("component: expected a package URL such as pkg:generic/name@1.0") from error
        return cls(name, parsed.version or version, _package(parsed))


def _package(purl: PackageURL) -> str:
    return PackageURL(purl.type, purl.namespace, purl.name).to_string()


@dataclass(frozen=True, slots=True)
class RunningDevice:
    """A device that runs an image with a component."""

    device_id: str
    slot: Slot
    image_sha256: str


@dataclass(frozen=True, slots=True)
class StoredStatement:
    """What a vulnerability means to a component of a release.

    Attributes:
        release: name.
        sha256: of the document that says it.
        number: the order in which statements came into force; 0 before it is stored.
    """

    release: str
    sha256: str
    vulnerability: str
    name: str
    version: str
    purl: str
    state: str
    justification: str
    detail: str
    made_at: datetime
    number: int = 0


class DocumentRepository(Protocol):
    """Documents in force and what they say."""

    async def add(self, document: StoredDocument) -> None:
        """Store a document that came into force; the same again changes nothing."""

    async def find(self, sha256: str) -> StoredDocument | None:
        """Return a document by the SHA-256 of its bytes, or None."""

    async def about(self, subjects: Collection[str]) -> Sequence[StoredDocument]:
        """Return every document about some images and releases, oldest first."""

    async def add_components(self, components: Sequence[ListedComponent]) -> None:
        """Store what is inside an image; what is stored of that image already stays as it is."""

    async def add_statements(self, statements: Sequence[StoredStatement]) -> None:
        """Store statements."""

    async def components(self, query: ComponentQuery, *, after_number: int, limit: int) -> Sequence[ListedComponent]:
        """Return at most `limit` components with what is looked for, in the order of listing."""

    async def installed(self, query: ComponentQuery) -> Sequence[tuple[Slot, str]]:
        """Return the images with a component that devices run, by slot and the image's SHA-256."""

    async def installed_of(self, digests: Collection[str]) -> Mapping[str, Mapping[Slot, int]]:
        """Return how many devices run each image that has a bill of materials, by its SHA-256 and by slot."""

    async def devices(self, slot: Slot, image_sha256: str, *, after_id: str, limit: int) -> Sequence[str]:
        """Return at most `limit` ids of devices that run an image in a slot, by id."""

    async def statements(
        self, *, vulnerability: str | None, release: str | None, after_number: int, limit: int
    ) -> Sequence[StoredStatement]:
        """Return at most `limit` statements in the order in which they came into force."""
