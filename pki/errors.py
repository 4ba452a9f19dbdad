"""The base of every error that pki raises; the leaf names the broken rule."""


class PkiError(Exception):
    """Base: a key, certificate or signed metadata broke a rule."""


class KeyStoreError(PkiError):
    """A key file is unreadable or holds something else than a P-256 key."""


class KeyMissingError(KeyStoreError):
    """The key store has no key of that role."""


class KeyExistsError(KeyStoreError):
    """The key store already has a key of that role; keys are never overwritten."""


class KeyNameError(KeyStoreError):
    """A key is to have a name that is none, or that is reserved."""


class PassphraseError(KeyStoreError):
    """No passphrase, or not the one that encrypted the key."""


class TokenError(KeyStoreError):
    """Base: a PKCS#11 token cannot be used; raised itself for what its module does not explain."""


class TokenUriError(TokenError):
    """The PKCS#11 URI of a store is malformed, or carries a secret."""


class TokenModuleError(TokenError):
    """The PKCS#11 module is missing or does not start."""


class TokenMissingError(TokenError):
    """No token of that name is in any slot of the module."""


class AmbiguousTokenError(TokenError):
    """Several tokens bear that name."""


class PinFileError(TokenError):
    """The file that holds the PIN is missing, empty or open to others."""


class PinError(TokenError):
    """The PIN is not that of the token."""


class PinLockedError(PinError):
    """The token takes no PIN any more: too many wrong ones, or it has expired."""


class TokenRemovedError(TokenError):
    """The token, or its session, went away while it was used."""


class TokenWriteError(TokenError):
    """The token is full or write-protected, or did not keep what was written."""


class AmbiguousKeyError(TokenError):
    """Several keys in a token bear the label of one role."""


class HalfKeyError(TokenError):
    """A token holds a public key without its private one, or the other way round."""


class TokenKeyError(TokenError):
    """A key in a token is of another type or curve, may leave the token, or may not sign."""


class StoreConfigError(KeyStoreError):
    """keys.toml, which says where keys are, breaks a rule."""


class ProfileError(PkiError):
    """A certificate was asked for that its profile does not allow."""


class CsrError(PkiError):
    """A certificate signing request broke a rule."""


class ChainError(PkiError):
    """A certificate does not chain to the root as the protocol requires."""


class CrlError(PkiError):
    """A certificate revocation list is not of its authority, or not of the expected form."""


class CrlSuccessionError(CrlError):
    """A certificate revocation list would take back a revocation, or is older than the one in force."""


class OcspError(PkiError):
    """The responder's key or certificate is not what its authority delegated."""


class EarlierFolderError(ChainError):
    """A service's folder was made by an earlier version and lacks certificates."""


class DeclarationError(PkiError):
    """A ceremony's declaration is malformed, or declares what cannot be."""


class CeremonyError(PkiError):
    """The ceremony cannot be held, or cannot go on, in this folder."""


class TranscriptError(PkiError):
    """A ceremony's transcript is missing, was changed, or was signed by another key."""


class CatalogError(PkiError):
    """The catalog's file is missing or malformed."""


class RepositoryError(PkiError):
    """Update metadata is not of the expected form, or would break the repository."""


class MetadataSignatureError(RepositoryError):
    """Too few keys of the role signed the metadata."""


class DelegationError(RepositoryError):
    """A role is not delegated to, or lists or delegates what is not its own."""


class MetadataExpiredError(RepositoryError):
    """The metadata's expiry has passed."""


class MetadataLengthError(RepositoryError):
    """A new file is longer than what a device reads."""


class MetadataVersionError(RepositoryError):
    """The metadata has another version than the one that must come here."""


class IssuanceLogError(PkiError):
    """The issuance log is not what it was, or not what it should be."""


class LogFormError(IssuanceLogError):
    """An entry is not of the expected form."""


class LogOrderError(IssuanceLogError):
    """An entry is missing, doubled or out of order."""


class LogChainError(IssuanceLogError):
    """An entry was changed, or does not follow the one before it."""


class LogRewrittenError(IssuanceLogError):
    """The log was rewritten since its last verification."""


class LogCutError(IssuanceLogError):
    """The log is shorter than it was, or ends elsewhere than its keeper says."""


class VoucherRefusedError(PkiError):
    """The voucher authority gives no voucher: another catalog holds the device and has not let it go."""


class VoucherLogError(PkiError):
    """The log of vouchers has a gap, or was changed."""


class HandoverError(PkiError):
    """A handover or a device's release is malformed, or not by the catalog that it names."""


class ManufacturerError(PkiError):
    """A manufacturer's bundle, or the list of those trusted, is malformed or not by whom it should be."""


class RolloverError(PkiError):
    """Base: a step of the issuing CA's rollover broke a rule."""


class UnknownGenerationError(RolloverError):
    """The issuing CA has no generation of this number."""


class GenerationStateError(RolloverError):
    """The step does not follow from where the generation is."""


class GenerationCertificateError(RolloverError):
    """A certificate is not that of the generation which was requested."""


class ProposalError(RepositoryError):
    """A proposal is malformed, or would change what it must not."""


class ProposalSignatureError(ProposalError):
    """A signature in a proposal is not by a key that counts for it, or not over what the proposal says now."""


class SignerRefusedError(ProposalError):
    """A key is asked for a signature that would not count."""


class LogRequestError(PkiError):
    """The service's request for its log key is missing, malformed, or not by the key that it names."""


class WitnessRefusedError(PkiError):
    """A witness does not cosign a checkpoint.

    Attributes:
        status: HTTP status that C2SP tlog-witness gives the reason.
        size: of the checkpoint that it has cosigned, where that is the reason; else None.
    """

    def __init__(self, status: int, message: str, *, size: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.size = size


class WitnessStateError(PkiError):
    """What a witness has cosigned cannot be read or kept; it cosigns nothing until it can."""
