"""Which settings and credentials of the environment a store is opened with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ladle.store.errors import Misconfigured
from ladle.store.opening import az_settings, gs_settings, open_store, s3_settings
from ladle.store.url import parse_url

Profiles = Mapping[str, Mapping[str, Mapping[str, str]]]
KEYS = {"aws_access_key_id": "ID", "aws_secret_access_key": "SECRET"}


def s3(
    environ: Mapping[str, str], files: Profiles | None = None
) -> tuple[dict[str, str], str, str]:
    found = s3_settings(environ, lambda path: (files or {}).get(path.name, {}))
    assert "SECRET" not in found.credentials
    return dict(found.config), found.credentials, found.profile


def test_the_endpoint_has_the_names_of_aws_and_of_tensorflow() -> None:
    assert s3({"AWS_ENDPOINT_URL": "http://a"})[0] == {"endpoint": "http://a"}
    both = {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}
    assert s3(both)[0] == {"endpoint": "http://b"}
    assert s3({"S3_ENDPOINT": "host:9"})[0] == {"endpoint": "https://host:9"}
    plain = {"S3_ENDPOINT": "host:9", "S3_USE_HTTPS": "0"}
    assert s3(plain)[0] == {"endpoint": "http://host:9"}
    assert s3({"S3_REGION": "eu-west-1"})[0] == {"region": "eu-west-1"}


def test_credentials_of_the_environment_come_first() -> None:
    config, told, _ = s3({"AWS_ACCESS_KEY_ID": "ID"}, {"credentials": {"default": KEYS}})
    assert (config, told) == ({}, "credentials of AWS_ACCESS_KEY_ID")
    assert s3({"AWS_SKIP_SIGNATURE": "true"})[1] == "AWS_SKIP_SIGNATURE: none are sent"
    # Also before a profile that is named, whose region counts all the same.
    both = {"AWS_ACCESS_KEY_ID": "ID", "AWS_PROFILE": "p"}
    files: Profiles = {"credentials": {"p": KEYS}, "config": {"profile p": {"region": "r"}}}
    assert s3(both, files)[:2] == ({"region": "r"}, "credentials of AWS_ACCESS_KEY_ID")


def test_a_profile_that_is_named_comes_before_a_role() -> None:
    both = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_PROFILE": "p"}
    assert s3(both, {"credentials": {"p": KEYS}})[1] == "credentials of the profile p"
    role = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}
    told = s3(role, {"credentials": {"default": KEYS}})[1]
    assert told == "credentials of AWS_WEB_IDENTITY_TOKEN_FILE"


def test_a_profile_with_keys_needs_no_other_package() -> None:
    files: Profiles = {
        "credentials": {"default": KEYS, "other": {**KEYS, "aws_session_token": "SECRET"}},
        "config": {"default": {"region": "r1"}, "profile other": {"region": "r2"}},
    }
    keys = {"access_key_id": "ID", "secret_access_key": "SECRET"}
    assert s3({}, files)[0] == {**keys, "region": "r1"}
    config, told, _ = s3({"AWS_PROFILE": "other"}, files)
    assert config == {**keys, "region": "r2", "session_token": "SECRET"}
    assert told == "credentials of the profile other"
    assert "region" not in s3({"AWS_REGION": "r3"}, files)[0]


def test_a_profile_without_keys_is_left_to_boto3() -> None:
    files: Profiles = {"config": {"profile sso": {"sso_session": "x", "region": "r"}}}
    config, _, profile = s3({"AWS_PROFILE": "sso"}, files)
    assert (config, profile) == ({"region": "r"}, "sso")
    with pytest.raises(Misconfigured, match="there is no profile 'none'"):
        s3({"AWS_PROFILE": "none"}, files)


def test_without_any_the_machines_identity_is_left_to_the_library() -> None:
    assert s3({}) == ({}, "no credentials in the environment or ~/.aws", "")


def test_google() -> None:
    assert gs_settings({}).credentials == "the machine's own identity"
    assert gs_settings({"STORAGE_EMULATOR_HOST": "h:1"}).endpoint == "http://h:1"
    told = gs_settings({"GOOGLE_APPLICATION_CREDENTIALS": "/secret.json"}).credentials
    assert told == "credentials of GOOGLE_APPLICATION_CREDENTIALS"


def test_azure() -> None:
    with pytest.raises(Misconfigured, match="AZURE_STORAGE_ACCOUNT_NAME"):
        az_settings({})
    found = az_settings({"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "SECRET"})
    assert dict(found.config) == {"account_name": "a", "account_key": "SECRET"}
    assert found.credentials == "by AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY"
    assert az_settings({"AZURE_STORAGE_ACCOUNT_NAME": "a"}).config == ()


def test_who_has_no_home_has_no_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    try:
        open_store(parse_url("s3://bucket/m"))
    except Misconfigured as error:
        assert "the package obstore is needed" in str(error)  # noqa: PT017
