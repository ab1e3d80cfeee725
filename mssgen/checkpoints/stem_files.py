"""Rows of the registry for Spleeter and Open-Unmix, whose networks have one file per stem.

Names and the first digits of hashes as their authors published them, the revision as k2-fsa's
programs pin it. Where no hub repository is known for certain, the row says where to download from,
and `mssgen models convert` reads the files.
"""

from mssgen.checkpoints.bundles import Bundle, RemoteFile

_SPLEETER_STEMS = {
    2: ("vocals", "accompaniment"),
    4: ("vocals", "drums", "bass", "other"),
    5: ("vocals", "piano", "drums", "bass", "other"),
}
_SPLEETER_SDR = {
    4: "vocals 6.55, drums 5.93, bass 5.10, other 4.24 (MUSDB18 test, median of seconds, museval)"
}
_SPLEETER_LICENCE = (
    "unclear: MIT in the paper, the README names the code only",
    "The paper (Journal of Open Source Software, 2020) puts code and models under MIT; the README "
    "names only the code, and deezer/spleeter#898 and #959 ask, without an answer. The training "
    "data are Deezer's own.",
)
_UNMIX_MIT = ("MIT", "The records on Zenodo say MIT; the weights were trained on MUSDB18(-HQ).")
_UNMIX_NC = (
    "CC BY-NC-SA 4.0: non-commercial use only",
    "The package openunmix says that these weights are for non-commercial use only. They load and "
    "convert after consent only.",
)
# Each model's record on Zenodo, licence, published SDR, and the hash in the name of each file.
_UNMIX = {
    "umxhq": (
        3370489,
        _UNMIX_MIT,
        "vocals 6.25, drums 6.04, bass 5.07, other 4.28",
        {"vocals": "b62c91ce", "drums": "9619578f", "bass": "8d85a5bd", "other": "b52fbbf7"},
    ),
    "umx": (
        3370486,
        _UNMIX_MIT,
        "vocals 6.32, drums 5.73, bass 5.23, other 4.02",
        {"vocals": "c8df74a5", "drums": "5a48008b", "bass": "646024d3", "other": "f8e132cc"},
    ),
    "umxl": (
        5069601,
        _UNMIX_NC,
        "vocals 7.21, drums 7.15, bass 6.02, other 4.89",
        {"vocals": "bccbd9aa", "drums": "69e0ebd4", "bass": "2ca1ce51", "other": "c8c5b3e6"},
    ),
}


def separators_by_stem() -> list[Bundle]:
    """One bundle per model; its files are parts of one network."""
    spleeter = [_spleeter(n_stems) for n_stems in _SPLEETER_STEMS]
    return spleeter + [_unmix(name) for name in _UNMIX]


def _spleeter(n_stems: int) -> Bundle:
    stems, is_on_hub = _SPLEETER_STEMS[n_stems], n_stems == 2
    release = "https://github.com/deezer/spleeter/releases/download/v1.4.0"
    return Bundle(
        name=f"spleeter_{n_stems}stems",
        stage="separate",
        architecture="spleeter",
        repo="csukuangfj/sherpa-onnx-spleeter-2stems-fp16" if is_on_hub else "",
        revision="d4f5d657bda30d02c3cb7d5d391f3eaa2c632df9" if is_on_hub else None,
        files=tuple(RemoteFile(f"{stem}.fp16.onnx") for stem in stems)
        if is_on_hub
        else (RemoteFile(f"{n_stems}stems.tar.gz"),),
        page=None if is_on_hub else f"{release}/{n_stems}stems.tar.gz",
        stems=stems,
        sample_rate=44_100,
        licence=_SPLEETER_LICENCE[0],
        licence_note=_SPLEETER_LICENCE[1],
        note="Spleeter, up to 11 kHz, fast; "
        + ("about 20 MB per stem in fp16" if is_on_hub else "about 39 MB per stem")
        + "; no hash of the files is known for sure, so they are not checked against one.",
        origin="Deezer, trained on its own catalogue",
        sdr=_SPLEETER_SDR.get(n_stems),
        is_joint=True,
    )


def _unmix(name: str) -> Bundle:
    record, (licence, licence_note), sdr, hashes = _UNMIX[name]
    return Bundle(
        name=name,
        stage="separate",
        architecture="openunmix",
        repo="",
        revision=None,
        files=tuple(RemoteFile(f"{stem}-{digest}.pth") for stem, digest in hashes.items()),
        page=f"https://zenodo.org/records/{record}",
        stems=tuple(hashes),
        sample_rate=44_100,
        licence=licence,
        licence_note=licence_note,
        note="Open-Unmix, up to 16 kHz; the first 8 digits of each file's sha256 are in its name.",
        origin="Inria and Sony, trained on "
        + ("private stems" if name == "umxl" else "the training set of MUSDB18"),
        sdr=f"{sdr} (MUSDB18 test, median of seconds, museval)",
        is_joint=True,
    )
