"""The transparency log's key, from the service's folder or its token."""

from pathlib import Path

from pki.log_key import load_log_key, request_log_key
from protocol.notes import NoteSigner


def open_log_key(data_dir: Path) -> NoteSigner:
    """Return the log's signer; a folder of an earlier version gets a key first.

    Raises:
        KeyStoreError: the key is missing though it was requested, or cannot be used.
    """
    request_log_key(data_dir)
    return load_log_key(data_dir)
