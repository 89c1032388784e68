# ladle's server, with the conventions of tensorflow/serving's image: MODEL_NAME, MODEL_BASE_PATH,
# gRPC on 8500, HTTP on 8501, flags appended. Putting this image in its place is the whole move:
#
#   docker build --tag ladle .
#   docker run -p 8500:8500 -p 8501:8501 -v "$PWD/models:/models:ro" -e MODEL_NAME=digits ladle
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
# Wheels alone: nothing is compiled here, and no compiler is needed.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && python -m venv /opt/ladle \
 && wheel="$(echo /wheels/ladle-*.whl)" \
 && /opt/ladle/bin/pip install --no-cache-dir --only-binary=:all: "${wheel}[server]" \
 && /opt/ladle/bin/pip uninstall --yes pip

FROM python:${PYTHON}-slim
# A first process that passes signals on and buries what is left behind.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 ladle \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent ladle
COPY --from=build /opt/ladle /opt/ladle
COPY deploy/docker/entrypoint.sh /usr/bin/tf_serving_entrypoint.sh
# By the name, too, under which manifests written for upstream's image start the server.
RUN ln -s /opt/ladle/bin/tensorflow_model_server /usr/bin/tensorflow_model_server \
 && ln -s /opt/ladle/bin/ladle /usr/bin/ladle \
 && mkdir -p /models
ENV MODEL_NAME=model MODEL_BASE_PATH=/models PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8500 8501
USER 10001:10001
# Where TLS is on or the port another, say so: --health-cmd "ladle health --ca /tls/ca.pem".
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["ladle", "health", "localhost:8500"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/bin/tf_serving_entrypoint.sh"]
