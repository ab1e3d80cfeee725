"""Converts separators of other programs to mssgen's checkpoint folders."""

from pathlib import Path

from mssgen.checkpoints import tensorflow
from mssgen.checkpoints.folders import new_folder, write_checkpoint
from mssgen.checkpoints.formats import Checkpoint
from mssgen.checkpoints.warned import check_origin
from mssgen.errors import CheckpointError
from mssgen.files import sha256_of
from mssgen.separators.foreign import SUFFIXES, join
from mssgen.separators.loading import check_fits
from mssgen.separators.spleeter.conversion import from_tensorflow


def convert(
    source: Path, target: Path, *, overwrite: bool = False, accept_unlicensed: bool = False
) -> Checkpoint:
    """Write a separator of another program as a checkpoint folder, and return what was read.

    Args:
        source: a TensorFlow checkpoint (its folder, or NAME or NAME.index in it), or a folder with
            a file per stem.
        target: new folder, which appears complete or not at all.
        overwrite: replace an existing checkpoint.
        accept_unlicensed: convert weights whose licence or origin restricts their use.

    Raises:
        CheckpointError: `source` is damaged, incomplete or of another program, or `target` exists.
        UsageError: the weights need `accept_unlicensed`.
    """
    with new_folder(target, overwrite=overwrite) as draft:
        files = _files(source)
        for file in files:
            check_origin(file, accept_unlicensed=accept_unlicensed)
        checkpoint = _from_tensorflow(files[0]) if len(files) == 1 else join(files)
        check_fits(checkpoint)
        about = {
            "architecture": checkpoint.architecture,
            "options": checkpoint.options,
            "sample_rate": checkpoint.sample_rate,
            "stems": list(checkpoint.stems),
            "source": [
                {"file": file.name, "sha256": sha256_of(file)}
                for file in (*files, *tensorflow.data_of(files))
            ],
        }
        write_checkpoint(draft, checkpoint.state, about)
    return checkpoint


def _files(source: Path) -> list[Path]:
    """The index of a TensorFlow checkpoint, or the files of the stems."""
    if (index := tensorflow.find_index(source)) is not None:
        return [index]
    if not source.exists():
        raise CheckpointError(f"{source} does not exist: give a folder with a checkpoint")
    found = [file for file in sorted(source.glob("*")) if file.suffix in SUFFIXES]
    if source.is_file() or len(found) < 2:
        raise CheckpointError(
            f"{source} is neither a TensorFlow checkpoint (NAME.index and NAME.data-…) nor a "
            f"folder with a file per stem ({', '.join(SUFFIXES)})"
        )
    return found


def _from_tensorflow(index: Path) -> Checkpoint:
    try:
        options, state = from_tensorflow(tensorflow.read_variables(index))
    except CheckpointError as error:
        whole = str(error).startswith(str(index.parent))
        raise error if whole else CheckpointError(f"{index} {error}") from None
    return Checkpoint("spleeter", options, state, index)
