"""The listening test as a stand-alone page that runs from a folder without a server.

A page opened from disk may load scripts but no other files, so the sounds are scripts.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mssgen.evaluation.listening.trials import Trial
from mssgen.evaluation.report.audio_files import write_sound
from mssgen.files import write_text
from mssgen.inspection.html import rendered
from mssgen.leftovers import scratch_folder


def write_trial(trial: Trial, output: Path) -> dict[str, object]:
    """Write the sounds of a trial as scripts and return the data that the page needs.

    File numbers are shuffled, so that file names do not reveal the systems.
    """
    sounds = [trial.reference, *(condition.audio for condition in trial.conditions)]
    numbers = np.random.default_rng([*trial.id.encode()]).permutation(len(sounds))
    folder = f"audio/{trial.id.partition('.')[0]}"
    files = [f"{folder}/{number}.js" for number in numbers]
    for file, audio in zip(files, sounds, strict=True):
        with scratch_folder() as place:
            target = place / "sound.flac"
            write_sound(audio, trial.sample_rate, target, "flac")
            sound = base64.b64encode(target.read_bytes()).decode()
        write_text(output / file, f"mssgenSound({json.dumps(file)}, '{sound}');\n")
    return {
        "id": trial.id,
        "track": trial.track,
        "stem": trial.stem,
        "start_s": round(trial.start_s, 3),
        "reference": files[0],
        "conditions": [
            {"name": condition.name, "role": condition.role, "file": file}
            for condition, file in zip(trial.conditions, files[1:], strict=True)
        ],
    }


def page_of(test: Mapping[str, object]) -> str:
    """The page as HTML: everything but the sounds."""
    return rendered("mssgen.evaluation.listening", "page.html", extra="evaluate", test=test)
