"""Learning what is normal on a Cortex-M4F: features of a window, and a detector that learns and judges."""
