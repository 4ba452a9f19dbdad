"""The update client: Uptane verification, download with resume, trial, confirm or revert."""
