"""Which loudspeaker each channel is for, and the orders that containers keep channels in.

In mssgen channels have one order everywhere, that of WAV: by the bits of dwChannelMask
(WAVE_FORMAT_EXTENSIBLE). Readers bring channels into it, writers take them out of it. A layout is a
tuple of speaker names, one for each channel; () where nothing says what the channels are.

Sources: Microsoft, "Multiple channel audio data and WAVE files"; Vorbis I specification, 4.3.9
(also RFC 7845, 5.1.1.2, for Opus); RFC 9639, 9.1.3 and 8.6.2, for FLAC; Apple, "Core Audio Format
specification", for the chunks `chan` of CAF and `CHAN` of AIFF.
"""

Layout = tuple[str, ...]


def _names(words: str) -> Layout:
    return tuple(words.split())


# By bit of dwChannelMask. "s" is at the side, "b" is behind, "c" next to the centre, "T" above.
NAMES = _names("L R C LFE Lb Rb Lc Rc Cb Ls Rs T TL TC TR TLb TCb TRb")

# In a container without a mask, by number of channels, in the order of WAV. FLAC, Vorbis and Opus
# agree on these, and so does ffmpeg.
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
_HAVE_USUAL = (*_IN_VORBIS_ORDER, "flac")
_MIRRORED = (("L", "R"), ("Lb", "Rb"), ("Lc", "Rc"), ("Ls", "Rs"), ("TL", "TR"), ("TLb", "TRb"))
# Surround at the side or behind: one name for both where a container has only one of them.
_BEHIND = {"Ls": "Lb", "Rs": "Rb"}


def layout_of_mask(mask: int, n_channels: int) -> Layout:
    """The layout of a dwChannelMask; () where it does not name all the channels."""
    names = tuple(name for bit, name in enumerate(NAMES) if mask >> bit & 1)
    return names if len(names) == n_channels and not mask >> len(NAMES) else ()


def mask_of_layout(layout: Layout) -> int:
    """The dwChannelMask of a layout; 0 of none."""
    return sum(1 << NAMES.index(name) for name in layout)


def usual_layout(n_channels: int, container: str) -> Layout:
    """What a file without a mask has, in the file's own order; () where that is not known.

    Six channels are 5.1 everywhere; other numbers mean something only where the format says so.
    """
    if container in _IN_VORBIS_ORDER:
        return _VORBIS.get(n_channels, ())
    is_known = n_channels in (1, 2, 6) or container == "flac"
    return _USUAL.get(n_channels, ()) if is_known else ()


def canonical(layout: Layout) -> Layout:
    """The same speakers in the order of WAV."""
    return tuple(sorted(layout, key=NAMES.index))


def order_from(layout: Layout) -> tuple[int, ...]:
    """Which channel of a file comes first, second, ... in the order of WAV; () changes nothing."""
    order = tuple(layout.index(name) for name in canonical(layout))
    return () if order == tuple(range(len(order))) else order


def order_for(layout: Layout, n_channels: int, container: str) -> tuple[int, ...]:
    """Which channel goes first, second, ... into a file of this container; () changes nothing.

    Channels that are not known go where those of the usual layout would: whoever reads the file
    takes them for these.
    """
    if container not in _IN_VORBIS_ORDER or n_channels not in _VORBIS:
        return ()
    usual, wanted = _USUAL[n_channels], _VORBIS[n_channels]
    names = layout if _is_like(layout, usual) else usual
    order = tuple(_alike(names).index(name) for name in _alike(wanted))
    return () if order == tuple(range(n_channels)) else order


def what_is_lost(layout: Layout, container: str) -> str | None:
    """A sentence about speakers that a container cannot name; None where it keeps them all."""
    n_channels = len(layout)
    if n_channels < 3 or container in ("wav", "caf", "aiff", "flac"):
        return None
    if container in ("raw", "w64"):
        # Six channels are taken for 5.1 without a word.
        if container == "w64" and _is_like(layout, _USUAL[6]):
            return None
        return (
            f"{container} does not say which speaker a channel is for: they are in the order "
            f"{' '.join(layout)}"
        )
    usual = _USUAL.get(n_channels, ())
    if _is_like(layout, usual):
        return None
    taken = f", and players will take them for {' '.join(usual)}" if usual else ""
    return (
        f"{container} has no place for the speakers {' '.join(layout)}: the channels are in this "
        f"order{taken} (`container='wav'` keeps them)"
    )


def has_own_mask(layout: Layout) -> bool:
    """Whether FLAC needs a tag to tell this layout."""
    return bool(layout) and layout != _USUAL.get(len(layout))


def pairs_of(layout: Layout, n_channels: int) -> tuple[tuple[int, int], ...]:
    """Channels that belong together, (left, right); one that stands alone is with itself.

    By meaning where the layout is known; else the first with the second, and so on.
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
    """The layout with the side called behind where there is only one such pair: few containers
    tell one from the other."""
    return layout if "Lb" in layout else tuple(_BEHIND.get(name, name) for name in layout)
