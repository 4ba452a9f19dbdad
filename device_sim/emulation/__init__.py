"""An instruction-accurate real-time core: a model's own program, executed by Unicorn with the core's memory map.

Opt-in: needs the extra `tinyfleet[emulation]` and arm-none-eabi-gcc. `emulation.opening` is the way in; it is the
only module here that may be imported without the extra.
"""
