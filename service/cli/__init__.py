"""`tinyfleet`: the operator's command line, an HTTPS client of the service that signs offline through pki."""
