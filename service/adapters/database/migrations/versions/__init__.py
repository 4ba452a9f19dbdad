"""One module per schema change, in order: v0001_devices, v0002_..., each naming the one before it."""
