"""The listening test for webMUSHRA (Schoeffler et al. 2018): wav files and a configuration."""

import html
import math
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from mssgen.evaluation.listening.trials import ANCHORS_HZ, ListeningOptions, Trial
from mssgen.evaluation.report.audio_files import write_sound

Page = dict[str, Any]


def write_trial(
    kind: str, trial: Trial, root: Path, folder: Path, options: ListeningOptions
) -> Page:
    """Write the wav files of a trial and return its page of the configuration."""
    number = trial.id.partition(".")[0]
    reference = folder / number / "reference.wav"
    write_sound(trial.reference, trial.sample_rate, root / reference, "wav")
    stimuli: dict[str, str] = {}
    for condition in trial.conditions:
        if condition.role == "system":  # webMUSHRA makes the others itself
            path = folder / number / f"{len(stimuli) + 1}.wav"
            write_sound(condition.audio, trial.sample_rate, root / path, "wav")
            stimuli[condition.name] = path.as_posix()
    page = {
        "type": "mushra" if kind == "mushra" else "paired_comparison",
        "id": trial.id,
        # webMUSHRA shows names as HTML.
        "name": html.escape(trial.stem),
        "content": "Rate how similar each version is to the reference."
        if kind == "mushra"
        else "Which of A and B is the reference?",
        "showWaveform": True,
        "enableLooping": True,
    }
    if kind == "mushra":
        page |= {
            "strict": False,
            **{f"createAnchor{hz // 100}": hz in options.anchors_hz for hz in ANCHORS_HZ},
            "randomize": True,
            "showConditionNames": False,
            "switchBack": False,
        }
    else:
        page["unforced"] = "I cannot tell"
    return {**page, "reference": reference.as_posix(), "stimuli": stimuli}


def config_of(kind: str, test_id: str, trials: list[Page], options: ListeningOptions) -> str:
    """The configuration of a test as YAML."""
    welcome = (
        "Use headphones in a quiet room. One of the versions is the reference itself."
        if kind == "mushra"
        else "Use headphones in a quiet room. You hear a reference and two sounds, A and B."
    )
    config = {
        "testname": options.title,
        "testId": test_id,
        "bufferSize": 2048,
        "stopOnErrors": True,
        "showButtonPreviousPage": True,
        "remoteService": "service/write.php",
        "pages": [
            {
                "type": "generic",
                "id": "welcome",
                "name": html.escape(options.title),
                "content": welcome,
            },
            {
                "type": "volume",
                "id": "volume",
                "name": "Volume",
                "content": "Set a comfortable volume and do not change it afterwards.",
                "stimulus": trials[0]["reference"],
                "defaultVolume": 0.5,
            },
            ["random", *trials],
            {
                "type": "finish",
                "name": "Thank you",
                "content": "Send your ratings with the button below.",
                "popupContent": "Your ratings were sent.",
                "showResults": False,
                "writeResults": True,
                "questionnaire": [{"type": "text", "label": "Name or number", "name": "listener"}],
            },
        ],
    }
    usage = (
        f"# Copy the folder configs into webMUSHRA's own and open it with ?config={test_id}.yaml"
    )
    return f"{usage}\n{yaml.safe_dump(config, sort_keys=False, width=math.inf)}"
