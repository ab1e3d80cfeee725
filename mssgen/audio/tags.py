"""Copies titles, artists and cover art from a song into its stems, if the format can hold them.

Only the fields of one neutral set are copied. Fields that describe the mixture as a signal
(ReplayGain, R128, iTunes' loudness, recording codes, fingerprints) are not: a stem differs.

The package mediafile maps fields to formats in the same way, but values do not come out of it as
they went in (version 0.17): of several artists it reads the first, "3/12" becomes two numbers, "A3"
becomes 0 and 180.5 beats per minute 180, dates that are not numbers vanish, and it has neither
conductors nor the INFO list of a wav.
"""

import base64
import importlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

# Neutral name (also the Vorbis comment): the ID3 frame, the MP4 atom, the ASF attribute.
_FIELDS = {
    "title": ("TIT2", "\xa9nam", "Title"),
    "artist": ("TPE1", "\xa9ART", "Author"),
    "album": ("TALB", "\xa9alb", "WM/AlbumTitle"),
    "albumartist": ("TPE2", "aART", "WM/AlbumArtist"),
    "date": ("TDRC", "\xa9day", "WM/Year"),
    "genre": ("TCON", "\xa9gen", "WM/Genre"),
    "tracknumber": ("TRCK", "trkn", "WM/TrackNumber"),
    "discnumber": ("TPOS", "disk", "WM/PartOfSet"),
    "composer": ("TCOM", "\xa9wrt", "WM/Composer"),
    "lyricist": ("TEXT", "", "WM/Writer"),
    "conductor": ("TPE3", "", "WM/Conductor"),
    "copyright": ("TCOP", "cprt", "Copyright"),
    "organization": ("TPUB", "", "WM/Publisher"),
    "language": ("TLAN", "", "WM/Language"),
    "bpm": ("TBPM", "tmpo", "WM/BeatsPerMinute"),
    "initialkey": ("TKEY", "", "WM/InitialKey"),
    "comment": ("COMM", "\xa9cmt", "Description"),
}
# A picture block in FLAC has a 24-bit length; Ogg uses the same layout.
_MAX_PICTURE_BYTES = 2**24 - 2**12
_FRONT_COVER = 3


@dataclass(frozen=True)
class Picture:
    """One image."""

    mime: str
    """Media type: "image/jpeg", ..."""
    type: int
    """Picture type of ID3; 3 is the front cover."""
    data: bytes


@dataclass(frozen=True)
class Tags:
    """Tags of a song."""

    fields: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Values by neutral lower-case name (a Vorbis comment)."""
    pictures: tuple[Picture, ...] = ()
    made_by: str = ""
    """Provenance of the stem, written as its encoder; not read from songs."""

    def for_stem(self, stem: str) -> "Tags":
        """Copy with the name of the stem added to the title: "Song (bass)"."""
        title = tuple(f"{value} ({stem})" for value in self.fields.get("title", ()))
        return Tags(self.fields | ({"title": title} if title else {}), self.pictures, self.made_by)


def read_tags(path: Path) -> Tags:
    """Read the tags of a sound file; empty if it has none or they cannot be read."""
    try:
        return _read(path)
    except Exception as error:  # unreadable tags must not stop a separation
        _log.debug("no tags from %s: %r", path, error)
        return Tags()


def write_tags(path: Path, tags: Tags, *, stem: str, container: str) -> bool:
    """Write tags into a finished stem.

    Args:
        path: the file, whatever its suffix.
        tags: tags of the song.
        stem: name of the stem, added to the title.
        container: format of the file, a key of `mssgen.audio.encodings.CONTAINERS`.

    Returns:
        Whether the file now holds the tags: caf, w64 and raw cannot. Failures are logged as a
        warning and leave the audio as it was.
    """
    if container not in _FILES or not (tags.fields or tags.pictures or tags.made_by):
        return False
    try:
        _write(path, tags.for_stem(stem), container)
    except Exception as error:
        _log.warning("the %s stem could not be tagged (%s); its audio is complete", stem, error)
        return False
    return True


def _read(path: Path) -> Tags:
    import mutagen
    from mutagen.asf import ASFTags
    from mutagen.id3 import ID3
    from mutagen.mp4 import MP4Tags

    file = mutagen.File(path)
    found = None if file is None else file.tags
    if isinstance(found, ID3):
        return _from_id3(found)
    if isinstance(found, MP4Tags):
        return _from_mp4(found)
    if isinstance(found, ASFTags):
        return Tags(_kept({name: found.get(key, ()) for name, (_, _, key) in _FIELDS.items()}))
    # Empty tags are falsy but may come with pictures.
    if found or getattr(file, "pictures", ()):
        found = {} if found is None else found
        pictures = tuple(getattr(file, "pictures", ())) or tuple(_ogg_pictures(found))
        return Tags(
            _kept({name: found.get(name, ()) for name in _FIELDS}),
            tuple(Picture(one.mime, int(one.type), one.data) for one in pictures),
        )
    # The INFO list of a wav: mutagen ignores it, libsndfile reads it.
    import soundfile as sf

    with sf.SoundFile(path) as sound:
        return Tags(_kept({name: (text,) for name, text in sound.copy_metadata().items()}))


def _kept(found: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Keep the neutral fields that have a value, as text."""
    fields = {}
    for name, values in found.items():
        texts = tuple(text for text in (str(value).strip() for value in values) if text)
        if name in _FIELDS and texts:
            fields[name] = texts
    return fields


def _from_id3(found: Any) -> Tags:
    values: dict[str, Any] = {}
    for name, (frame_id, _, _) in _FIELDS.items():
        # Comments with a description are iTunes data about loudness and gaps.
        frames = [one for one in found.getall(frame_id) if not getattr(one, "desc", "")]
        if frames:
            values[name] = frames[0].genres if frame_id == "TCON" else frames[0].text
    pictures = (Picture(one.mime, int(one.type), one.data) for one in found.getall("APIC"))
    return Tags(_kept(values), tuple(pictures))


def _from_mp4(found: Any) -> Tags:
    from mutagen.mp4 import MP4Cover

    values = {name: found.get(atom, ()) for name, (_, atom, _) in _FIELDS.items() if atom}
    for name in ("tracknumber", "discnumber"):
        values[name] = [f"{one}/{of}" if of else one for one, of in values[name]]
    pictures = []
    for cover in found.get("covr", ()):
        is_png = cover.imageformat == MP4Cover.FORMAT_PNG
        pictures.append(
            Picture("image/png" if is_png else "image/jpeg", _FRONT_COVER, bytes(cover))
        )
    return Tags(_kept(values), tuple(pictures))


def _ogg_pictures(found: Any) -> list[Any]:
    from mutagen.flac import Picture as FLACPicture

    blocks = found.get("metadata_block_picture", ())
    return [FLACPicture(base64.b64decode(block)) for block in blocks]


def _flac_pictures(tags: Tags) -> list[Any]:
    from mutagen.flac import Picture as FLACPicture

    blocks = []
    for picture in tags.pictures:
        if len(picture.data) <= _MAX_PICTURE_BYTES:
            block = FLACPicture()
            block.mime, block.type, block.data = picture.mime, picture.type, picture.data
            blocks.append(block)
    return blocks


def _add_id3(frames: Any, tags: Tags) -> None:
    from mutagen import id3

    for name, values in tags.fields.items():
        frame_id = _FIELDS[name][0]
        extra = {"lang": "XXX"} if frame_id == "COMM" else {}
        frames.add(getattr(id3, frame_id)(encoding=3, text=list(values), **extra))
    if tags.made_by:
        frames.add(id3.TSSE(encoding=3, text=[tags.made_by]))
    for index, picture in enumerate(tags.pictures):
        # Pictures with the same description would replace each other: number them.
        frames.add(
            id3.APIC(
                encoding=3,
                mime=picture.mime,
                type=picture.type,
                desc=str(index or ""),
                data=picture.data,
            )
        )


def _add_comments(file: Any, tags: Tags) -> None:
    """Add Vorbis comments and pictures to a FLAC or Ogg file."""
    file.update({name: list(values) for name, values in tags.fields.items()})
    if tags.made_by:
        file["encoder"] = tags.made_by
    blocks = _flac_pictures(tags)
    if hasattr(file, "add_picture"):
        for block in blocks:
            file.add_picture(block)
    elif blocks:
        texts = [base64.b64encode(block.write()).decode("ascii") for block in blocks]
        file["metadata_block_picture"] = texts


def _write(path: Path, tags: Tags, container: str) -> None:
    from mutagen.id3 import ID3

    module, kind = _FILES[container]
    file = getattr(importlib.import_module(f"mutagen.{module}"), kind)(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, ID3):
        _add_id3(file.tags, tags)
    else:
        _add_comments(file, tags)
    file.save()


# By container, the module and the class of mutagen: names of drafts do not tell the format.
_FILES = {
    "wav": ("wave", "WAVE"),
    "aiff": ("aiff", "AIFF"),
    "flac": ("flac", "FLAC"),
    "ogg": ("oggvorbis", "OggVorbis"),
    "opus": ("oggopus", "OggOpus"),
    "mp3": ("mp3", "MP3"),
}
