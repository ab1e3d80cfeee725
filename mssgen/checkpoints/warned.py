"""Files whose origin forbids using them by accident: they load only with the user's consent.

Separators are community files, some of unknown descent. Consent is asked for where a public source
says that the weights were taken from a product.
"""

import logging
from pathlib import Path

from mssgen.errors import UsageError
from mssgen.files import sha256_of

_log = logging.getLogger(__name__)
_LOGIC_PRO = (
    "a public community document says that these weights (BS-Roformer-SW) were taken out of Apple "
    "Logic Pro and converted; no licence was ever stated"
)
_UNMIX_NC = (
    "these weights (umxl of Open-Unmix) are under CC BY-NC-SA 4.0, for non-commercial use only"
)
# First 8 digits of the sha256, which are in the names of the published files.
_BY_DIGITS = dict.fromkeys(("bccbd9aa", "69e0ebd4", "2ca1ce51", "c8c5b3e6"), _UNMIX_NC)
# Size in bytes and sha256 of each file, with what is said of its origin.
WARNED: dict[tuple[int, str], str] = {
    (699_412_152, "24e7d35ee9c64415673d3fd33e06a67cac2c103c5df6267ba1576459c775916e"): _LOGIC_PRO,
    (350_420_195, "06fd1dbadac852fca293f306b1791aac4f8e01cb37ea682485a644ee692aa58b"): _LOGIC_PRO,
    (698_840_448, "56c131428745d83d63f72293d237fdbb56f40d8e4b6980cbcde70e28a9f7330f"): _LOGIC_PRO,
}


def check_origin(path: Path, *, accept_unlicensed: bool) -> None:
    """Raise UsageError for a file of the lists above, unless the user accepts it.

    If they do, a warning says what is said of its origin. Only .pth files and files of a listed
    size are hashed.
    """
    is_listed = path.is_file() and path.stat().st_size in {size for size, _ in WARNED}
    if not is_listed and not (path.is_file() and path.suffix == ".pth"):
        return
    digest = sha256_of(path)
    origin = WARNED.get((path.stat().st_size, digest)) or _BY_DIGITS.get(digest[:8])
    if origin is None:
        return
    if not accept_unlicensed:
        raise UsageError(f"{path}: {origin}; use `accept_unlicensed=True` if you may use them")
    _log.warning("%s: %s", path, origin)
