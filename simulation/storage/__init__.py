"""The service's storage in memory: transactional, indexed, and no larger than what a scenario reaches."""
