"""A SavedModel on disk, with its warm-up file, that was loaded and asked before it is published."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ladle.export.publishing.requirements import Requirements
from ladle.export.saved_model.checked import Checked, check_signatures
from ladle.export.saved_model.operations import check_operations
from ladle.export.saved_model.samples import Sample
from ladle.export.saved_model.signatures import Endpoint, write_saved_model
from ladle.export.saved_model.subprocess_check import Loading
from ladle.export.saved_model.warmup import write_warmup


def write_checked(
    folder: Path,
    model_name: str,
    endpoints: Mapping[str, Endpoint],
    samples: Mapping[str, Sample],
    requirements: Requirements,
    *,
    sums_to_1: bool,
    computed_in_half: bool,
    customs: Collection[str] = (),
) -> Checked:
    """Write the SavedModel and its warm-up file, and check it in a process of its own; blocks.

    Args:
        folder: Where the version is built.
        model_name: What the warm-up requests ask for.
        endpoints: The functions that become signatures, by the signatures' names.
        samples: What each signature is asked, and what Keras answers.
        requirements: Which operations the graph may hold, and what has to be imported to load it.
        sums_to_1: Whether the scores of an example have to sum to 1.
        computed_in_half: Whether the model computes in half precision, and so answers less exactly.
        customs: The signatures that are the user's own.

    Raises:
        CheckError: The written model reaches out of its graph, or answers otherwise than Keras.
    """
    write_saved_model(endpoints, folder)
    check_operations(folder, requirements.allow_op)
    checked = check_signatures(
        folder,
        samples,
        customs=customs,
        sums_to_1=sums_to_1,
        computed_in_half=computed_in_half,
        loading=Loading(import_modules=requirements.import_modules),
    )
    write_warmup(samples, model_name, folder)
    return checked
