from __future__ import annotations

from ladle.client.calls.metadata_cache import MetadataCache
from ladle.client.messages.requests import Servable
from ladle.client.models import ModelMetadata


def about(version: int | None) -> ModelMetadata:
    return ModelMetadata(model="m", version=version, signatures={})


def test_what_is_learned_of_the_newest_is_known_of_that_version_too() -> None:
    known = MetadataCache()
    known.learn(Servable("m"), about(3))
    known.learn(Servable("m", label="stable"), about(2))
    assert known.find(Servable("m")) == known.find(Servable("m", 3)) == about(3)
    assert known.find(Servable("m", label="stable")) == known.find(Servable("m", 2)) == about(2)
    assert known.find(Servable("m", 4)) is None
    assert known.find(Servable("other")) is None


def test_what_is_learned_later_counts() -> None:
    known = MetadataCache()
    known.learn(Servable("m"), about(3))
    known.learn(Servable("m"), about(4))
    assert known.find(Servable("m")) == about(4)
    assert known.find(Servable("m", 3)) == about(3)


def test_the_least_recently_used_is_given_up() -> None:
    known = MetadataCache(max_entries=3)
    for version in (1, 2, 3):
        known.learn(Servable("m", version), about(version))
    known.find(Servable("m", 1))
    known.learn(Servable("m", 4), about(4))
    remaining = [version for version in range(5) if known.find(Servable("m", version))]
    assert remaining == [1, 3, 4]


def test_a_server_that_tells_no_version_is_remembered_too() -> None:
    known = MetadataCache()
    known.learn(Servable("m"), about(None))
    assert known.find(Servable("m")) == about(None)
