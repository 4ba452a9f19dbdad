"""Errors of the command line; the leaf names the broken rule. main() turns each into one line and an exit code."""

from collections.abc import Mapping


class CliError(Exception):
    """Base: a command failed; the message says what was expected and found."""

    exit_code = 1


class BadArgumentError(CliError):
    """An argument has the right type but no meaning here."""

    exit_code = 2


class CredentialError(CliError):
    """The operator's login file is missing, unreadable or not of the expected form."""


class ServiceUnreachableError(CliError):
    """No service answers at the credential's address, or its certificate is not of our root."""


class AnswerError(CliError):
    """The service's answer is not of the expected form."""


class RefusedError(CliError):
    """The service refused a request with a problem document (RFC 9457).

    Attributes:
        status: HTTP status.
        title: the kind of problem.
        detail: what was expected and found.
        members: the problem's further members.
    """

    def __init__(self, *, status: int, title: str, detail: str, members: Mapping[str, object]) -> None:
        super().__init__(f"{title}: {detail}" if detail else f"{title} (HTTP {status})")
        self.status = status
        self.title = title
        self.detail = detail
        self.members = members


class ServiceStartError(CliError):
    """The service cannot run with these settings."""


class DeviceFolderError(CliError):
    """A device's folder lacks a file that the step before should have written."""


class DemoFolderError(CliError):
    """The demo's data directory is not the demo's, damaged, or in use."""


class StepError(CliError):
    """A command that this one started failed."""


class InterruptedDemoError(CliError):
    """The demo was stopped before it was done."""

    exit_code = 130  # 128 + SIGINT, as shells have it
