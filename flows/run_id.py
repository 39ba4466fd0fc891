"""What makes a run another one: its content id, and the parameters that are part of it."""

import hashlib
import json
from importlib.metadata import version
from typing import Any

from flows.parameters import SweepParameters
from tasks.reporting.run_record import Run
from tasks.scoring.layer_scores import SCORING_VERSION
from tasks.vocabulary import NO_PROMPT, LongTexts

# Versions that can change a number, kept with the run.
RECORDED_VERSIONS = (
    "layerscout",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "polars",
    "pyarrow",
)

# Parameters that change where and how a run is computed, and no number of it.
CHANGE_NO_NUMBER = {
    "storage",
    "device",
    "trust_remote_code",
    "stream_blocks",
    "keep_embeddings",
    "runner",
    "runner_address",
    # How many rows were read is said by the rows.
    "until_confident",
    "within",
    "budget",
}


def describe_run(parameters: SweepParameters, embedding_set_id: str) -> Run:
    """The run's content id: where it is stored and on which device it ran change no number that it stands for."""
    asked = asked_of(parameters)
    code_version = f"{version('layerscout')}+scoring.{SCORING_VERSION}"
    content = json.dumps([asked, embedding_set_id, code_version], sort_keys=True)
    return Run(
        id=hashlib.sha256(content.encode()).hexdigest()[:16],
        parameters=asked,
        code_version=code_version,
        versions={name: version(name) for name in RECORDED_VERSIONS},
    )


def asked_of(parameters: SweepParameters) -> dict[str, Any]:
    """The parameters that make a run another one, as it keeps them."""
    asked = parameters.model_dump(
        mode="json",
        exclude=CHANGE_NO_NUMBER,
    )
    if parameters.together == SweepParameters.model_fields["together"].default:
        del asked["together"]  # every score is the same, whatever stands side by side
    if len(parameters.text_column) < 2:  # as before there could be several
        asked["text_column"] = next(iter(parameters.text_column), None)
        del asked["joined_by"]
    if parameters.text_pairs == "joined":
        del asked["text_pairs"]  # as before there was a choice
    if len(parameters.label_column) < 2:
        asked["label_column"] = next(iter(parameters.label_column), None)
    if parameters.task == "auto":
        del asked["task"]  # the data set's own fingerprint says what it came to
    if parameters.long_texts is LongTexts.CUT:
        del asked["long_texts"]  # as before there was a choice
    if parameters.row_order == "source":
        del asked["row_order"]  # as before there was a choice
    if parameters.prompt == NO_PROMPT:
        del asked["prompt"]  # a run without one is what it was before there were any
    # A set of scores, whichever was asked for first.
    asked["criterion"] = sorted(asked["criterion"])
    for name in (
        "encoding",
        "split_column",
        "group_column",
        "time_column",
        "weight_column",
        "attention_rows",
    ):
        if asked[name] is None:
            del asked[name]  # as before there was a choice, so that older runs keep their ids
    return asked
