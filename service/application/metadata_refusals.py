"""What the service answers where metadata does not verify: pki's errors by their kind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pki import errors as pki
from service.domain.errors import ConflictError, ForbiddenError, InvalidError, ServiceError


class MetadataFormError(InvalidError):
    """The bytes are no metadata of the role that is expected."""


class MetadataExpiredError(InvalidError):
    """The metadata's expiry is over."""


class MetadataSignatureRefusedError(ForbiddenError):
    """Too few keys of the role signed the metadata."""


class DelegationRefusedError(ForbiddenError):
    """A role is not delegated to, or lists or delegates what is not its own."""


class MetadataVersionError(ConflictError):
    """The metadata is not of the version that must come next."""


_REFUSALS: Mapping[type[pki.RepositoryError], type[ServiceError]] = {
    pki.MetadataSignatureError: MetadataSignatureRefusedError,
    pki.DelegationError: DelegationRefusedError,
    pki.MetadataExpiredError: MetadataExpiredError,
    pki.MetadataVersionError: MetadataVersionError,
}


@contextmanager
def refusals() -> Iterator[None]:
    """Turn an error of pki about metadata into one of the service.

    Raises:
        ServiceError: the leaf names the broken rule.
    """
    try:
        yield
    except pki.RepositoryError as error:
        raise _REFUSALS.get(type(error), MetadataFormError)(str(error)) from error
