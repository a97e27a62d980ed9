"""What the emulator knows of cards other than a Hopper: how their tensor cores add up (sums.hpp has the papers)."""

# From which architecture on, in ascending order: the bits that are kept below the largest term's exponent, how many bytes of
# a row are added up at a time, and the bits that mma.sync keeps of numbers of 8 bits, 0 where there is no instruction for them.
SUMS = {75: (24, 16, 0), 89: (24, 16, 13), 90: (25, 32, 0), 120: (25, 32, 25)}


def sums_of(architecture: str) -> tuple[int, int, int]:
    """The entry of ``SUMS`` for one of ``launch.ARCHITECTURES``."""
    return next(sums for least, sums in reversed(SUMS.items()) if int(architecture.rstrip("a")) >= least)
