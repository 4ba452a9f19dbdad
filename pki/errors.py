"""The base of every error that pki raises; the leaf names the broken rule."""


class PkiError(Exception):
    """Base: a key, certificate or signed metadata broke a rule."""


class KeyStoreError(PkiError):
    """A key file is unreadable or holds something else than a P-256 key."""


class KeyMissingError(KeyStoreError):
    """The key store has no key of that role."""


class KeyExistsError(KeyStoreError):
    """The key store already has a key of that role; keys are never overwritten."""


class PassphraseError(KeyStoreError):
    """No passphrase, or not the one that encrypted the key."""


class ProfileError(PkiError):
    """A certificate was asked for that its profile does not allow."""


class CsrError(PkiError):
    """A certificate signing request broke a rule."""


class ChainError(PkiError):
    """A certificate does not chain to the root as the protocol requires."""


class CatalogError(PkiError):
    """The catalog's file is missing or malformed."""


class RepositoryError(PkiError):
    """Update metadata is not of the expected form, or would break the repository."""


class MetadataSignatureError(RepositoryError):
    """Too few keys of the role signed the metadata."""


class MetadataExpiredError(RepositoryError):
    """The metadata's expiry has passed."""


class MetadataVersionError(RepositoryError):
    """The metadata has another version than the one that must come here."""
