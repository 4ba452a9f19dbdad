"""A virtual device's root of trust and secure storage: what a restart and a power cut leave, in memory, unsigned."""

from protocol.document import Document, DocumentT, canonical_json
from protocol.geometry import Slot


class VirtualStorage:
    """Secure storage in memory; survives power cuts."""

    __slots__ = ("documents", "items")

    def __init__(self, other: "VirtualStorage | None" = None) -> None:
        self.items: dict[str, bytes] = dict(other.items) if other else {}
        self.documents: dict[str, Document] = dict(other.documents) if other else {}

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name, or None."""
        return self.items.get(name)

    def put(self, name: str, value: bytes) -> None:
        """Keep bytes under a name."""
        self.items[name] = value

    def get_document(self, name: str, document_type: type[DocumentT]) -> DocumentT | None:
        """Return the document that is kept under a name, or None; documents never change, so it need not be parsed."""
        kept = self.documents.get(name)
        return kept if isinstance(kept, document_type) else None

    def put_document(self, name: str, document: Document) -> None:
        """Keep a document under a name."""
        self.documents[name] = document


class VirtualAnchor:
    """The root of trust: fuses and counters are kept, nothing is signed."""

    __slots__ = ("counters", "fuses")

    has_app_development = False

    def __init__(self) -> None:
        self.fuses: dict[Slot, int] = {}
        self.counters: dict[str, int] = {}

    def seal(self, document: Document, payload_type: str) -> bytes:
        """Return a document as it is: nobody signs it."""
        del payload_type
        return canonical_json(document)

    def fuse(self, slot: Slot) -> int:
        """Return the lowest security version that a slot may boot."""
        return self.fuses.get(slot, 0)

    def increment(self, name: str) -> int:
        """Raise a monotonic counter by one and return it."""
        self.counters[name] = self.counters.get(name, 0) + 1
        return self.counters[name]
