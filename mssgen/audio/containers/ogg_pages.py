"""Ogg pages: finds intact pages and the streams of chained files (RFC 3533, RFC 7845).

Radio recordings and joined files are chains of streams, each with its own headers; libsndfile
reads only the first one. Pages with a wrong checksum are skipped, as in libogg.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, starmap

from mssgen.audio.containers import vorbis_packets
from mssgen.audio.containers.byte_views import Piece
from mssgen.audio.containers.file_layout import Bytes, FileLayout, Part, damaged, first_losses
from mssgen.audio.containers.opus_packets import Framing, empty_packet, framing_of

_HEADER_BYTES = 27
_MAX_SEGMENTS = 255
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_OPUS_RATE = 48_000
# First bytes of a stream's first packet, and its number of header packets.
_SOUND_KINDS = {b"\x01vorbis": 3, b"OpusHead": 2, b"\x7fFLAC": 0, b"Speex   ": 2}
NO_END = "has no end mark: it may be cut short"


@dataclass(frozen=True)
class Page:
    """An intact page; `start`, `stop` and `body` are byte offsets in the file."""

    start: int
    stop: int
    flags: int
    position: int
    """End of the last packet that ends in this page, in samples; -1 if none does."""
    serial: int
    number: int
    body: int
    """Start of the packets."""

    @property
    def is_first(self) -> bool:
        return bool(self.flags & 2)

    @property
    def is_last(self) -> bool:
        return bool(self.flags & 4)


@dataclass
class _Link:
    """One audio stream of a chain."""

    kind: bytes
    serial: int
    first: Page
    pages: list[Page] = field(default_factory=list)
    holes: list[int] = field(default_factory=list)
    """Indices of pages whose predecessors are lost."""


def checksum(page: bytes) -> int:
    """Checksum of a page whose own checksum field is zero: CRC-32, not reflected, not inverted."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def pages(data: Bytes) -> Iterator[Page]:
    """Yield the intact pages in order; other bytes are skipped."""
    position = 0
    while (position := data.find(b"OggS", position)) >= 0:
        page = _parse(data, position)
        if page is not None:
            yield page
        position = position + 4 if page is None else page.stop


def _parse(data: Bytes, start: int) -> Page | None:
    head = data[start : start + _HEADER_BYTES + _MAX_SEGMENTS]
    if len(head) < _HEADER_BYTES or head[4] != 0:
        return None
    body = start + _HEADER_BYTES + head[26]
    stop = body + sum(head[_HEADER_BYTES : _HEADER_BYTES + head[26]])
    if stop > len(data):
        return None
    whole = data[start:stop]
    if checksum(whole[:22] + bytes(4) + whole[26:]) != int.from_bytes(whole[22:26], "little"):
        return None
    position = int.from_bytes(head[6:14], "little", signed=True)
    serial, number = (int.from_bytes(head[i : i + 4], "little") for i in (14, 18))
    return Page(start, stop, head[5], position, serial, number, body)


def scan(data: Bytes) -> FileLayout | None:
    """Layout of an Ogg file; None if it is one intact stream, or of an unknown kind."""
    links = _find_links(data)
    parts: list[Part] = []
    losses: list[str] = []
    changed: dict[int, bytes] = {}
    for link in links:
        if link.kind == b"OpusHead":
            changed |= _true_header(data, link)
            changed |= _mended_opus(data, link, losses)
        elif link.kind == b"\x01vorbis":
            changed |= _mended_vorbis(data, link, losses)
    if not links:
        return None
    # libsndfile says for the other kinds that the end is missing.
    is_cut = links[0].kind == b"\x7fFLAC" and not links[0].pages[-1].is_last
    if len(links) == 1 and not (links[0].holes or changed or is_cut):
        return None
    for link in links:
        _add_parts(data, link, changed, parts, losses)
    if not links[-1].pages[-1].is_last:
        losses.append(NO_END)
    return FileLayout(tuple(parts), first_losses(losses))


def _find_links(data: Bytes) -> list[_Link]:
    """Audio streams in order; of multiplexed streams only the first."""
    links: list[_Link] = []
    is_in_headers = False
    for page in pages(data):
        if page.is_first:
            start = data[page.body : page.body + 8]
            kind = next((kind for kind in _SOUND_KINDS if start.startswith(kind)), None)
            is_mixed = is_in_headers and links and links[-1].first.start != page.start
            is_in_headers = True
            if kind is not None and not (is_mixed and links[-1].pages):
                links.append(_Link(kind, page.serial, page, [page]))
            continue
        is_in_headers = False
        if not links or page.serial != links[-1].serial:
            continue
        pages_before = links[-1].pages
        if page.number > pages_before[-1].number + 1:
            links[-1].holes.append(len(pages_before))
        pages_before.append(page)
    return links


def _true_header(data: Bytes, link: _Link) -> dict[int, bytes]:
    """First page of an Opus stream, by its start, with its rate set to 48 kHz; {} if it is.

    The rate in the header is that of the recording; Opus always decodes at 48 kHz (RFC 7845, 5.1).
    """
    at, rate = link.first.body + 12, _OPUS_RATE.to_bytes(4, "little")
    if data[at : at + 4] == rate:
        return {}
    return {link.first.start: _page_with(data, link.first, {at: rate})}


def _page_with(data: Bytes, page: Page, edits: dict[int, bytes]) -> bytes:
    """A page with bytes replaced, by their position in the file, and a new checksum."""
    content = bytearray(data[page.start : page.stop])
    for position, changed in edits.items():
        content[position - page.start : position - page.start + len(changed)] = changed
    content[22:26] = bytes(4)
    content[22:26] = checksum(bytes(content)).to_bytes(4, "little")
    return bytes(content)


_Packet = list[tuple[Page, range]]
"""The byte ranges of a packet, and the pages that hold them."""


def _mended_opus(data: Bytes, link: _Link, losses: list[str]) -> dict[int, bytes]:
    """Pages of an Opus stream with packets that a decoder refuses replaced by empty ones, by start.

    Each replaced packet is added to `losses`.
    """
    head = data[link.first.body : link.first.body + 20]
    n_streams = head[19] if len(head) == 20 and head[18:19] != b"\0" else 1
    mended: list[tuple[_Packet, bytes]] = []
    like, position = Framing(0xFC, 1), 0  # CELT, 20 ms, stereo
    for page, packets in _packets(data, link.pages[_n_header_pages(data, link) :]):
        contents = [_content(data, packet) for packet in packets]
        framings = [framing_of(content, n_streams) for content in contents]
        n_samples = sum((framing or like).n_samples for framing in framings)
        n_declared = page.position - position
        is_off = n_declared > n_samples if page.is_last else n_declared != n_samples
        for packet, content, framing in zip(packets, contents, framings, strict=True):
            is_odd = is_off and framing is not None and framing.n_samples != like.n_samples
            if framing is not None and not is_odd:
                like = framing
            elif empty := empty_packet(like, len(content), n_streams):
                at_s = max(0, position - _pre_skip(data, link)) / _OPUS_RATE
                losses.append(damaged(at_s, like.n_samples / _OPUS_RATE))
                mended.append((packet, empty))
            position += like.n_samples
        position = page.position
    return _changed(data, mended)


def _mended_vorbis(data: Bytes, link: _Link, losses: list[str]) -> dict[int, bytes]:
    """As `_mended_opus`, for a Vorbis stream."""
    n_heads = _n_header_pages(data, link)
    heads = [packet for _, packets in _packets(data, link.pages[:n_heads]) for packet in packets]
    blocks = vorbis_packets.blocks_of([_content(data, packet) for packet in heads])
    if blocks is None:
        return {}
    mended: list[tuple[_Packet, bytes]] = []
    position, before, rate = 0, b"", _rate(data, link)
    for page, packets in _packets(data, link.pages[n_heads:]):
        contents = [_content(data, packet) for packet in packets]
        known = [before, *contents] if before else contents
        n_samples = sum(starmap(blocks.n_samples, pairwise(known)))
        is_off = not page.is_last and page.position != position + n_samples
        for packet, content, after in zip(packets, contents, [*contents[1:], b""], strict=True):
            if vorbis_packets.is_damaged(before, content, after, is_off=is_off):
                content = vorbis_packets.silent_packet(before, len(content), after)
                mended.append((packet, content))
                n_samples = blocks.n_samples(before, content)
                losses.append(damaged(position / rate, n_samples / rate))
            position += blocks.n_samples(before, content) if before else 0
            before = content
        position = page.position
    return _changed(data, mended)


def _content(data: Bytes, packet: _Packet) -> bytes:
    return b"".join(data[at.start : at.stop] for _, at in packet)


def _changed(data: Bytes, mended: list[tuple[_Packet, bytes]]) -> dict[int, bytes]:
    """Pages, by their start, with packets replaced by others of the same size."""
    edits: dict[Page, dict[int, bytes]] = {}
    for packet, content in mended:
        n_done = 0
        for page, at in packet:
            edits.setdefault(page, {})[at.start] = content[n_done : n_done + len(at)]
            n_done += len(at)
    return {page.start: _page_with(data, page, found) for page, found in edits.items()}


def _packets(data: Bytes, found: list[Page]) -> Iterator[tuple[Page, list[_Packet]]]:
    """Yield each page in which packets end, and these packets, whole ones only."""
    spans: _Packet = []
    before: Page | None = None
    for page in found:
        is_continued = bool(page.flags & 1)
        if not is_continued or before is None or page.number != before.number + 1:
            spans = []
        is_whole = bool(spans) or not is_continued
        packets, at = list[_Packet](), page.body
        for lacing in data[page.start + _HEADER_BYTES : page.body]:
            spans.append((page, range(at, at + lacing)))
            at += lacing
            if lacing < 255:
                packets += [spans] * is_whole
                spans, is_whole = [], True
        if page.position >= 0:
            yield page, packets
        before = page


def _add_parts(
    data: Bytes, link: _Link, changed: dict[int, bytes], parts: list[Part], losses: list[str]
) -> None:
    """Append one part per gapless stretch of a stream to `parts`, and its damage to `losses`.

    `changed` are pages to replace, by their start.
    """
    n_heads = _n_header_pages(data, link)
    heads, rate = link.pages[:n_heads], _rate(data, link)
    bounds = [n_heads, *(hole for hole in link.holes if hole > n_heads), len(link.pages)]
    if any(hole <= n_heads for hole in link.holes) and n_heads < len(link.pages):
        losses.append("is damaged near its start: some sound is missing")
    last = 0
    for first, stop in pairwise(bounds):
        stretch = link.pages[first:stop]
        if first > n_heads:
            losses.append(damaged(last / rate, _n_lost(link, first) / rate))
        last = max([last, *(page.position for page in stretch)])
        ends_at = None if first == n_heads else last - _pre_skip(data, link)
        parts.append(Part(_joined([*heads, *stretch], changed), ends_at=ends_at))


def _pre_skip(data: Bytes, link: _Link) -> int:
    """Samples at the start of an Opus stream that are counted but not played."""
    head = data[link.first.body : link.first.body + 12]
    return int.from_bytes(head[10:12], "little") if link.kind == b"OpusHead" else 0


def _n_lost(link: _Link, first: int) -> int:
    """Estimated number of samples lost before page `first`, from the positions around the gap."""
    before = max(page.position for page in link.pages[:first])
    found = [page.position for page in link.pages[first:] if page.position >= 0]
    if not found:
        return 0
    n_pages = link.pages[first].number - link.pages[first - 1].number - 1
    # The lost pages and page `first` share the samples between the two positions.
    return max(0, (found[0] - before) * n_pages // (n_pages + 1))


def _rate(data: Bytes, link: _Link) -> int:
    """Rate in Hz of the page positions."""
    head = data[link.first.body : link.first.body + 64]
    if link.kind == b"\x01vorbis":
        return int.from_bytes(head[12:16], "little") or _OPUS_RATE
    if link.kind == b"\x7fFLAC":
        return int.from_bytes(head[27:30], "big") >> 4 or _OPUS_RATE
    if link.kind == b"Speex   ":
        return int.from_bytes(head[36:40], "little") or _OPUS_RATE
    return _OPUS_RATE


def _n_header_pages(data: Bytes, link: _Link) -> int:
    """Number of pages that hold the header packets."""
    n_packets = 0
    for index, page in enumerate(link.pages):
        if page.position > 0 or n_packets >= _SOUND_KINDS[link.kind] > 0:
            return index
        table = data[page.start + _HEADER_BYTES : page.body]
        n_packets += sum(lacing < 255 for lacing in table)
    return len(link.pages)


def _joined(shown: list[Page], changed: dict[int, bytes]) -> tuple[Piece, ...]:
    """Byte ranges of the pages, adjacent ones merged, or what replaces a page."""
    pieces: list[Piece] = []
    for page in shown:
        last = pieces[-1] if pieces else None
        if page.start in changed:
            pieces.append(changed[page.start])
        elif isinstance(last, range) and last.stop == page.start:
            pieces[-1] = range(last.start, page.stop)
        else:
            pieces.append(range(page.start, page.stop))
    return tuple(pieces)
