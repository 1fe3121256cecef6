"""Damage inside a video that shows without decoding it: packets of H.264 and HEVC that are not what they must be.

In MP4 and Matroska a packet is a row of NAL units, each behind its length (ISO/IEC 14496-15). The lengths must add up
to the packet, and each unit's header must start with a zero bit and name a type that exists. A block of zeros or of
another file, the usual damage of a bad copy, breaks that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Fault = Callable[[Any], str | None]


def packet_check(stream: Any) -> Fault:
    """Returns a function from a packet of `stream` to what is wrong with it, None when nothing shows."""
    extra = stream.codec_context.extradata or b""
    codec = stream.codec_context.name
    # The configuration record starts with version 1; byte streams with start codes begin otherwise.
    if codec == "h264" and len(extra) > 6 and extra[0] == 1:
        size = (extra[4] & 3) + 1
        return lambda packet: nal_fault(bytes(packet), size, hevc=False)
    if codec == "hevc" and len(extra) > 22 and extra[0] == 1:
        size = (extra[21] & 3) + 1
        return lambda packet: nal_fault(bytes(packet), size, hevc=True)
    return lambda packet: None


def nal_fault(data: bytes, size: int, *, hevc: bool) -> str | None:
    """Returns what is wrong with a packet of NAL units behind lengths of `size` bytes, None when it is sound."""
    at, pictures = 0, 0
    while at < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        at += size
        if length == 0 or at + length > len(data):
            return "its packet is torn"
        header = data[at]
        kind = header >> 1 & 63 if hevc else header & 31
        if header & 128 or (not hevc and kind == 0):
            return "its packet holds no picture"
        pictures += kind < 32 if hevc else 1 <= kind <= 5
        at += length
    return None if pictures else "its packet holds no picture"
