"""The base of every error that protocol raises; the leaf names the broken rule."""


class ProtocolError(Exception):
    """Base: a message, package, token or document broke a rule of the protocol."""


class MalformedError(ProtocolError):
    """The bytes are not of the expected form: too long, truncated, unparsable, a field missing."""


class SignatureError(ProtocolError):
    """No trusted key made the signature."""
