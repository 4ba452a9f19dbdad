"""Work on whole regions of the flash: erase them, blank them, bring an image into one."""

from device_sim.hardware.flash import ERASED, NorFlash
from protocol.flash_geometry import Region


def erase(flash: NorFlash, region: Region, length: int) -> None:
    """Erase the sectors of a region's first bytes."""
    sector = flash.geometry.sector_bytes
    for offset in range(region.offset, region.offset + length, sector):
        flash.erase(offset)


def blank(flash: NorFlash, region: Region) -> None:
    """Erase what of a region is not blank."""
    sector = flash.geometry.sector_bytes
    for offset in range(region.offset, region.offset + region.size_bytes, sector):
        if not flash.is_erased(offset, sector):
            flash.erase(offset)


def bring(flash: NorFlash, region: Region, image: bytes) -> None:
    """Write an image into a region, sector by sector; one that holds its part already stays as it is.

    So a copy that a power cut interrupted goes on where it ended.
    """
    sector = flash.geometry.sector_bytes
    padded = image + bytes([ERASED]) * (-len(image) % flash.geometry.write_bytes)
    for start in range(0, len(padded), sector):
        part, offset = padded[start : start + sector], region.offset + start
        if flash.read(offset, len(part)) != part:
            flash.erase(offset)
            flash.write(offset, part)
