# ladle's server, with the conventions of tensorflow/serving's image: MODEL_NAME, MODEL_BASE_PATH,
# gRPC on 8500, HTTP on 8501, flags appended. Putting this image in its place is the whole move:
#
#   docker build --tag ladle .
#   docker run -p 8500:8500 -p 8501:8501 -v "$PWD/models:/models:ro" -e MODEL_NAME=digits ladle
#
# For GPUs: docker build --build-arg VARIANT=gpu --tag ladle:gpu .
# For models with operations of other packages, name those here, and their modules at the start:
#   docker build --build-arg OPERATIONS="PACKAGE ANOTHER" --tag ladle:mine .
#   docker run ... ladle:mine --import_modules=MODULE
# docs/operations.md has those of TensorFlow Text.
# To fix the base: --build-arg BASE=python:3.12-slim@sha256:...
ARG BASE=python:3.12-slim

# What ladle needs, at the versions and hashes that deploy/docker/lock has found: a layer that only
# changes with them. Wheels alone: nothing is compiled for them.
FROM ${BASE} AS dependencies
ARG VARIANT=cpu
WORKDIR /build
COPY deploy/docker/requirements-${VARIANT}.txt requirements.txt
RUN python -m venv --without-pip /opt/ladle \
 && pip --python /opt/ladle/bin/python install --no-cache-dir --no-deps --require-hashes \
      --only-binary=:all: --requirement requirements.txt
COPY deploy/docker/prune.py .
RUN /opt/ladle/bin/python prune.py
# Packages that register operations, as they are: what they depend on would put another TensorFlow
# over the one that is there, so whatever else they need is named too.
ARG OPERATIONS=""
RUN if [ -n "${OPERATIONS}" ]; then \
      printf '%s\n' ${OPERATIONS} > operations.txt \
      && pip --python /opt/ladle/bin/python install --no-cache-dir --no-deps \
        --only-binary=:all: --requirement operations.txt; \
    fi

# The native transport, which is all that is compiled.
FROM ${BASE} AS native
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cargo gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY server/native .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM dependencies AS build
WORKDIR /src
COPY . .
COPY --from=native /wheels /wheels
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && pip --python /opt/ladle/bin/python install --no-cache-dir --no-deps --no-index \
      --prefix /opt/wheel /wheels/ladle-*.whl /wheels/ladle_native-*.whl

FROM ${BASE}
# A first process that passes signals on and buries what is left behind.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 ladle \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent ladle \
 && ln -s /opt/ladle/bin/tensorflow_model_server /usr/bin/tensorflow_model_server \
 && ln -s /opt/ladle/bin/ladle /usr/bin/ladle \
 && mkdir -p /models
COPY --from=dependencies /opt/ladle /opt/ladle
COPY deploy/docker/entrypoint.sh /usr/bin/tf_serving_entrypoint.sh
COPY deploy/docker/healthcheck.py /usr/bin/ladle-healthcheck
COPY --from=build /opt/wheel /opt/ladle
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ladle" \
      org.opencontainers.image.description="Serves TensorFlow SavedModels over gRPC and HTTP" \
      org.opencontainers.image.source="https://github.com/ladle-serving/ladle" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Versions of stores are kept in /tmp/ladle; a volume there, or --model_cache_dir, outlives the container.
ENV MODEL_NAME=model MODEL_BASE_PATH=/models XDG_CACHE_HOME=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8500 8501
USER 10001:10001
# Asks /readyz on port 8501. Where TLS is on or the port another, say so:
# --health-cmd "ladle health --ca /tls/ca.pem".
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["/usr/bin/ladle-healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/tf_serving_entrypoint.sh"]
