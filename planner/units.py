"""Multiples of units. Inside, everything is bytes, seconds, FLOPs and tokens."""

KIB = 2**10
MIB = 2**20
GIB = 2**30
MILLI = 1e-3
MICRO = 1e-6
GIGA = 10**9
TERA = 10**12
BITS_PER_BYTE = 8
