"""The listening test as a page of our own, which runs from a folder without a server.

A page that was opened from a disk may load scripts but no other files: the sounds are scripts.
"""

import base64
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from mssgen.evaluation.listening.trials import Trial
from mssgen.evaluation.report.audio_files import write_sound
from mssgen.files import write_text
from mssgen.leftovers import scratch_folder


def write_trial(trial: Trial, output: Path) -> dict[str, object]:
    """Write a trial's sounds as scripts and return what the page has to know of it.

    The numbers of files are shuffled: their names tell nothing.
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
    """The page with everything but the sounds in it."""
    assets = resources.files("mssgen.evaluation") / "listening"
    parts = {name: (assets / name).read_text("utf-8") for name in ("page.css", "page.js")}
    # "<" would let a name of a file end the element.
    data = json.dumps(test, ensure_ascii=True).replace("<", "\\u003c")
    values = {
        "@TITLE@": html.escape(str(test["title"])),
        "@STYLE@": parts["page.css"],
        "@TEST@": data,
        "@SCRIPT@": parts["page.js"],
    }
    page = (assets / "page.html").read_text("utf-8")
    # In one pass: what was put in is not looked at again.
    return re.sub("|".join(values), lambda found: values[found[0]], page)
