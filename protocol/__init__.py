"""What device and service share: identities, topics, messages, packages, evidence, update metadata.

Pure: bytes in, types out. No I/O, no clock, and no import of any other package of tinyfleet.
"""
