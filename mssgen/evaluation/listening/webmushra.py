"""The listening test for webMUSHRA (Schoeffler et al. 2018): wav files and a configuration."""

import html
import json
from pathlib import Path

from mssgen.evaluation.listening.trials import ANCHORS_HZ, ListeningOptions, Trial
from mssgen.evaluation.report.audio_files import write_sound


def write_trial(
    kind: str, trial: Trial, root: Path, folder: Path, options: ListeningOptions
) -> list[str]:
    """Write a trial's wav files and return the lines of its page."""
    number = trial.id.partition(".")[0]
    reference = folder / number / "reference.wav"
    write_sound(trial.reference, trial.sample_rate, root / reference, "wav")
    stimuli: list[tuple[str, Path]] = []
    for condition in trial.conditions:
        if condition.role == "system":  # webMUSHRA makes the others itself
            path = folder / number / f"{len(stimuli) + 1}.wav"
            write_sound(condition.audio, trial.sample_rate, root / path, "wav")
            stimuli.append((condition.name, path))
    anchors = [
        f"createAnchor{hz // 100}: {_yaml(kind == 'mushra' and hz in options.anchors_hz)}"
        for hz in ANCHORS_HZ
    ]
    mushra = ["strict: false", *anchors, "randomize: true", "showConditionNames: false",
              "switchBack: false"]  # fmt: skip
    what = "Rate how much each version sounds like the reference."
    if kind == "ab":
        what = "Which of A and B is the reference?"
    return [
        f"type: {'mushra' if kind == 'mushra' else 'paired_comparison'}",
        f"id: {_yaml(trial.id)}",
        f"name: {_yaml(html.escape(trial.stem))}",
        f"content: {_yaml(what)}",
        "showWaveform: true",
        "enableLooping: true",
        *(mushra if kind == "mushra" else [f"unforced: {_yaml('I cannot tell')}"]),
        f"reference: {_yaml(reference.as_posix())}",
        "stimuli:",
        *(f"  {_yaml(name)}: {_yaml(path.as_posix())}" for name, path in stimuli),
    ]


def config_of(kind: str, test_id: str, trials: list[list[str]], options: ListeningOptions) -> str:
    """The YAML of a test; its strings are quoted as in JSON, which YAML reads too."""
    welcome = (
        "Use headphones in a quiet room. One of the versions is the reference itself."
        if kind == "mushra"
        else "Use headphones in a quiet room. You hear a reference and two sounds, A and B."
    )
    stimulus = next(line for line in trials[0] if line.startswith("reference: "))
    lines = [
        f"# Copy the folder configs into that of webMUSHRA and open it with ?config={test_id}.yaml",
        f"testname: {_yaml(options.title)}",
        f"testId: {_yaml(test_id)}",
        "bufferSize: 2048",
        "stopOnErrors: true",
        "showButtonPreviousPage: true",
        "remoteService: service/write.php",
        "",
        "pages:",
        *_item(
            ["type: generic", "id: welcome", f"name: {_yaml(html.escape(options.title))}",
             f"content: {_yaml(welcome)}"], 2),
        *_item(
            ["type: volume", "id: volume", "name: Volume",
             "content: Set the volume to what is comfortable and leave it so.",
             f"stimulus: {stimulus.removeprefix('reference: ')}", "defaultVolume: 0.5"], 2),
        "  -",
        "    - random",
        *(line for trial in trials for line in _item(trial, 4)),
        *_item(
            ["type: finish", "name: Thank you", "content: Send your ratings with the button below.",
             "popupContent: Your ratings were sent.", "showResults: false", "writeResults: true",
             "questionnaire:", "  - type: text", "    label: Name or number", "    name: listener"],
            2),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _item(lines: list[str], indent: int) -> list[str]:
    """An item of a YAML list."""
    first, *others = lines
    return [f"{' ' * indent}- {first}", *(f"{' ' * (indent + 2)}{line}" for line in others)]


def _yaml(value: object) -> str:
    return json.dumps(value)
