"""Speaker layouts: the loudspeaker of each channel, and the channel orders of containers.

A layout is a tuple of speaker names, one per channel; () if the speakers are unknown. Within mssgen
channels are always in WAV order, the order of the bits of dwChannelMask (WAVE_FORMAT_EXTENSIBLE);
readers and writers convert from and to the order of the container.

Sources: Microsoft, "Multiple channel audio data and WAVE files"; Vorbis I specification, 4.3.9
(also RFC 7845, 5.1.1.2, for Opus); RFC 9639, 9.1.3 and 8.6.2, for FLAC; Apple, "Core Audio Format
specification", for the chunks `chan` of CAF and `CHAN` of AIFF.
"""

Layout = tuple[str, ...]


def _names(words: str) -> Layout:
    return tuple(words.split())


# By bit of dwChannelMask. "s" is side, "b" back, "c" next to the centre, "T" top.
NAMES = _names("L R C LFE Lb Rb Lc Rc Cb Ls Rs T TL TC TR TLb TCb TRb")

# Default speakers by number of channels, in WAV order, for containers without a mask. FLAC, Vorbis,
# Opus and ffmpeg agree on these.
_USUAL: dict[int, Layout] = {
    n: _names(names)
    for n, names in enumerate(
        (
            "C",
            "L R",
            "L R C",
            "L R Lb Rb",
            "L R C Lb Rb",
            "L R C LFE Lb Rb",
            "L R C LFE Cb Ls Rs",
            "L R C LFE Lb Rb Ls Rs",
        ),
        start=1,
    )
}
# Vorbis and Opus have their own order.
_VORBIS: dict[int, Layout] = {
    **_USUAL,
    3: _names("L C R"),
    5: _names("L C R Lb Rb"),
    6: _names("L C R Lb Rb LFE"),
    7: _names("L C R Ls Rs Cb LFE"),
    8: _names("L C R Ls Rs Lb Rb LFE"),
}
_IN_VORBIS_ORDER = ("ogg", "opus")
_MIRRORED = (("L", "R"), ("Lb", "Rb"), ("Lc", "Rc"), ("Ls", "Rs"), ("TL", "TR"), ("TLb", "TRb"))
# Side and back surround: one name for both in containers that have only one pair.
_BEHIND = {"Ls": "Lb", "Rs": "Rb"}


def layout_of_mask(mask: int, n_channels: int) -> Layout:
    """Layout of a dwChannelMask; () if the mask does not name all channels."""
    names = tuple(name for bit, name in enumerate(NAMES) if mask >> bit & 1)
    return names if len(names) == n_channels and not mask >> len(NAMES) else ()


def mask_of_layout(layout: Layout) -> int:
    """dwChannelMask of a layout; 0 for ()."""
    return sum(1 << NAMES.index(name) for name in layout)


def usual_layout(n_channels: int, container: str) -> Layout:
    """Default layout of a file without a mask, in the file's own order; () if there is none.

    Six channels are 5.1 in every container; other numbers above two only where the format's
    specification names the speakers.
    """
    if container in _IN_VORBIS_ORDER:
        return _VORBIS.get(n_channels, ())
    is_known = n_channels in (1, 2, 6) or container == "flac"
    return _USUAL.get(n_channels, ()) if is_known else ()


def canonical(layout: Layout) -> Layout:
    """Sort a layout into WAV order."""
    return tuple(sorted(layout, key=NAMES.index))


def order_from(layout: Layout) -> tuple[int, ...]:
    """Indices that reorder the channels of a file with this layout to WAV order; () if none move.

    Channel i in WAV order is channel `order[i]` of the file.
    """
    order = tuple(layout.index(name) for name in canonical(layout))
    return () if order == tuple(range(len(order))) else order


def order_for(layout: Layout, n_channels: int, container: str) -> tuple[int, ...]:
    """Indices that reorder channels from WAV order to that of the container; () if none move.

    Channels of unknown speakers are treated as the default layout, as any reader of the file will.
    """
    if container not in _IN_VORBIS_ORDER or n_channels not in _VORBIS:
        return ()
    usual, wanted = _USUAL[n_channels], _VORBIS[n_channels]
    names = layout if _is_like(layout, usual) else usual
    order = tuple(_alike(names).index(name) for name in _alike(wanted))
    return () if order == tuple(range(n_channels)) else order


def what_is_lost(layout: Layout, container: str) -> str | None:
    """Warning about speakers that a container cannot store; None if it stores the layout."""
    n_channels = len(layout)
    if n_channels < 3 or container in ("wav", "caf", "aiff", "flac"):
        return None
    if container in ("raw", "w64"):
        # Six channels are read as 5.1 anyway.
        if container == "w64" and _is_like(layout, _USUAL[6]):
            return None
        return (
            f"{container} does not store the speakers of the channels; their order is "
            f"{' '.join(layout)}"
        )
    usual = _USUAL.get(n_channels, ())
    if _is_like(layout, usual):
        return None
    taken = f", and players will assume {' '.join(usual)}" if usual else ""
    return (
        f"{container} cannot store the speakers {' '.join(layout)}: the channels are in this "
        f"order{taken} (`container='wav'` keeps the speakers)"
    )


def has_own_mask(layout: Layout) -> bool:
    """Whether a FLAC file needs a tag to store this layout."""
    return bool(layout) and layout != _USUAL.get(len(layout))


def pairs_of(layout: Layout, n_channels: int) -> tuple[tuple[int, int], ...]:
    """Stereo pairs of channel indices (left, right); a channel without a partner is (i, i).

    Channels are paired by speaker if the layout is known, else the first with the second, and so
    on.
    """
    if not layout:
        pairs = [(n, min(n + 1, n_channels - 1)) for n in range(0, n_channels, 2)]
        return tuple(pairs)
    partner = {left: right for left, right in _MIRRORED if {left, right} <= {*layout}}
    rights = set(partner.values())
    return tuple(
        (index, layout.index(partner.get(name, name)))
        for index, name in enumerate(layout)
        if name not in rights
    )


def _is_like(layout: Layout, other: Layout) -> bool:
    return {*_alike(layout)} == {*_alike(other)}


def _alike(layout: Layout) -> Layout:
    """Rename side surrounds to back if they are the only pair: few containers distinguish them."""
    return layout if "Lb" in layout else tuple(_BEHIND.get(name, name) for name in layout)
