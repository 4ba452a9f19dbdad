"""`device-sim`, also as `python -m device_sim`."""

from device_sim.cli import main

if __name__ == "__main__":
    main()
