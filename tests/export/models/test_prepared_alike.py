from __future__ import annotations

from pathlib import Path

import pytest
from checking import run_in_this_process
from exporting import ONE_EPOCH

from ladle.export import CheckError, Dataset, export_model
from ladle.export.data import picture_graph
from ladle.export.models.prepared_alike import check_alike, requests_to_compare
from ladle.protos.model_card import ModelCard, Normalization


@pytest.mark.parametrize("ignores_exif", [False, True])
def test_a_graph_that_does_not_turn_photos_is_found(
    tmp_path: Path,
    small: Dataset,
    checked_here: None,
    monkeypatch: pytest.MonkeyPatch,
    ignores_exif: bool,
) -> None:
    if ignores_exif:
        monkeypatch.setattr(picture_graph, "upright", lambda pixels, _: pixels)
    exported = export_model(tmp_path / "m", small, options=ONE_EPOCH)
    requests = requests_to_compare(exported.card)
    assert [request.signature for request in requests] == ["serving_bytes", "serving_default"]
    assert all(len(request.inputs["images"]) == 4 for request in requests)
    in_graph, by_client = run_in_this_process(exported.path, requests)
    if not ignores_exif:
        check_alike(in_graph, by_client)
        return
    with pytest.raises(CheckError, match='"serving_bytes" prepares pictures otherwise than the cl'):
        check_alike(in_graph, by_client)


def test_versions_that_take_no_pictures_have_nothing_to_compare() -> None:
    assert requests_to_compare(None) == []
    assert requests_to_compare(ModelCard()) == []


@pytest.mark.parametrize("shape", [None, [], [-1], [-1, 4, 4, 2], [-1, "4", 4], [-1, 0, 4], "4x4"])
def test_a_card_of_another_form_has_nothing_to_compare(shape: object) -> None:
    tensors = {"inputs": {"images": {"shape": shape}}}
    signatures = {"serving_default": tensors, "serving_bytes": tensors}
    card = ModelCard(normalization=Normalization(), signatures=signatures)
    assert requests_to_compare(card) == []
    assert requests_to_compare(ModelCard(signatures=dict.fromkeys(signatures, shape))) == []
