"""The cloud service: domain, use cases, adapters and their entry points."""
