"""The simulator's ends of its ports."""
