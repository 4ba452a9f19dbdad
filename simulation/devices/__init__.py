"""Virtual devices: the device code of device_sim on a machine, a network and a trust that are data."""
