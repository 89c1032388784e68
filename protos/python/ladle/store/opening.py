"""Opens the bucket of a URL, with the settings and credentials of the environment."""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from ladle.store.errors import Misconfigured
from ladle.store.store import Store
from ladle.store.url import StoreUrl

_WITHOUT_FILES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class Settings(NamedTuple):
    """What obstore is given beside what it reads from the environment itself."""

    config: tuple[tuple[str, str], ...]
    endpoint: str
    """Where the store is; empty where it is the cloud's own."""
    credentials: str
    """Which ones were found, in words without secrets."""
    profile: str = ""
    """A profile whose keys only boto3 can get; empty if none is needed."""


def open_store(url: StoreUrl) -> Store:
    """Return the bucket in which a URL lies; nothing is sent.

    Raises:
        Misconfigured: The package obstore is missing, or a setting of the environment is wrong.
    """
    match url.scheme:
        case "s3":
            found = s3_settings(os.environ, _read_ini)
        case "gs":
            found = gs_settings(os.environ)
        case _:
            found = az_settings(os.environ)
    return _opened(StoreUrl(url.scheme, url.bucket, ""), found)


@lru_cache(maxsize=64)
def _opened(bucket: StoreUrl, found: Settings) -> Store:
    """Return a bucket; one object for all who ask, since it holds connections."""
    try:
        import obstore.store as stores
    except ModuleNotFoundError:
        raise Misconfigured(
            f"{bucket}: the package obstore is needed: pip install 'ladle[remote]'"
        ) from None
    from ladle.store.obstore_store import ObstoreStore

    more: dict[str, Any] = dict(found.config)
    make: Callable[..., Any]
    match bucket.scheme:
        case "s3":
            # Not all that look like S3 know its removal of many at once.
            more["disable_bulk_delete"] = True
            if found.profile:
                more["credential_provider"] = _boto3_provider(bucket, found.profile)
            make = partial(stores.S3Store, bucket.bucket, **more)
        case "gs":
            make = partial(stores.GCSStore, bucket.bucket, **more)
        case _:
            make = partial(stores.AzureStore, bucket.bucket, **more)
    return ObstoreStore(
        bucket,
        make,
        allow_http=found.endpoint.startswith("http://"),
        credentials=found.credentials,
    )


def s3_settings(
    environ: Mapping[str, str], read_ini: Callable[[Path], Mapping[str, Mapping[str, str]]]
) -> Settings:
    """Return how to reach S3, by the names that the AWS tools and TensorFlow use.

    Args:
        environ: the environment.
        read_ini: reads a file of profiles; returns nothing where there is none.

    Raises:
        Misconfigured: A profile that is named is not there.
    """
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    if not endpoint and (host := environ.get("S3_ENDPOINT")):
        secure = environ.get("S3_USE_HTTPS", "1").lower() not in ("0", "false")
        endpoint = host if "://" in host else f"{'https' if secure else 'http'}://{host}"
    config = {"endpoint": endpoint} if endpoint else {}
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if not region and (region := environ.get("S3_REGION")):
        config["region"] = region
    profile = environ.get("AWS_PROFILE", "")
    known = next((name for name in _WITHOUT_FILES if environ.get(name)), "")
    if environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return Settings(tuple(config.items()), endpoint, "AWS_SKIP_SIGNATURE: none are sent")
    if known and not profile:
        return Settings(tuple(config.items()), endpoint, f"credentials of {known}")
    # As with the AWS tools, keys of the environment come before a profile that is named.
    name = profile or "default"
    secrets = read_ini(Path(environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")))
    others = read_ini(Path(environ.get("AWS_CONFIG_FILE", "~/.aws/config")))
    section = {
        **others.get(name if name == "default" else f"profile {name}", {}),
        **secrets.get(name, {}),
    }
    if profile and not section:
        raise Misconfigured(f"AWS_PROFILE: there is no profile {profile!r} in ~/.aws")
    if not region and "region" in section:
        config["region"] = section["region"]
    if known == _WITHOUT_FILES[0]:
        return Settings(tuple(config.items()), endpoint, f"credentials of {known}")
    if "aws_access_key_id" in section and "aws_secret_access_key" in section:
        config["access_key_id"] = section["aws_access_key_id"]
        config["secret_access_key"] = section["aws_secret_access_key"]
        if "aws_session_token" in section:
            config["session_token"] = section["aws_session_token"]
        return Settings(tuple(config.items()), endpoint, f"credentials of the profile {name}")
    if section.keys() - {"region", "output"}:
        return Settings(tuple(config.items()), endpoint, f"the profile {name}", profile=name)
    return Settings(tuple(config.items()), endpoint, "no credentials in the environment or ~/.aws")


def gs_settings(environ: Mapping[str, str]) -> Settings:
    """Return how to reach Google's store: STORAGE_EMULATOR_HOST is another endpoint."""
    config: dict[str, str] = {}
    host = environ.get("STORAGE_EMULATOR_HOST", "")
    if host:
        endpoint = host if "://" in host else f"http://{host}"
        key = {
            "gcs_base_url": endpoint,
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        config["service_account_key"] = json.dumps(key)
        return Settings(tuple(config.items()), endpoint, "an emulator, without credentials")
    given = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return Settings(
        tuple(config.items()),
        "",
        "credentials of GOOGLE_APPLICATION_CREDENTIALS" if given else "the machine's own identity",
    )


def az_settings(environ: Mapping[str, str]) -> Settings:
    """Return how to reach Azure's store: AZURE_STORAGE_ENDPOINT is another endpoint.

    Raises:
        Misconfigured: The account is not named.
    """
    endpoint = environ.get("AZURE_STORAGE_ENDPOINT", "")
    if not environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        account = environ.get("AZURE_STORAGE_ACCOUNT", "")
        if not account:
            raise Misconfigured("az://: expected the account's name in AZURE_STORAGE_ACCOUNT_NAME")
        config = {"account_name": account}
    else:
        config = {}
    if endpoint:
        config["endpoint"] = endpoint
    if (key := environ.get("AZURE_STORAGE_KEY")) and "AZURE_STORAGE_ACCOUNT_KEY" not in environ:
        config["account_key"] = key
    names = [
        name for name in sorted(environ) if name.startswith("AZURE_") and "ACCOUNT_N" not in name
    ]
    found = ", ".join(names) or "no AZURE_STORAGE_ variables but the account's name"
    return Settings(tuple(config.items()), endpoint, f"by {found}")


def _read_ini(path: Path) -> Mapping[str, Mapping[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.expanduser().read_text())
    except (OSError, RuntimeError):  # not every user has a home
        return {}
    except (configparser.Error, UnicodeDecodeError):
        raise Misconfigured(f"{path}: expected a file of profiles") from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _boto3_provider(bucket: StoreUrl, profile: str) -> Any:
    if not profile:
        return None
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        raise Misconfigured(
            f"{bucket}: the profile {profile} has no keys of its own: pip install boto3"
        ) from None
    return Boto3CredentialProvider(boto3.session.Session(profile_name=profile))
