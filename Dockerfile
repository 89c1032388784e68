# The image takes upstream's conventions: MODEL_NAME, MODEL_BASE_PATH, port 8500, arguments appended.
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/ladle && /opt/ladle/bin/pip install --no-cache-dir ".[server]"

FROM python:3.12-slim
COPY --from=build /opt/ladle /opt/ladle
RUN useradd --system --uid 10001 ladle
USER ladle
ENV PATH=/opt/ladle/bin:$PATH MODEL_NAME=model MODEL_BASE_PATH=/models
EXPOSE 8500
ENTRYPOINT ["/bin/sh", "-c", "exec ladle serve --port=8500 --model_name=\"$MODEL_NAME\" --model_base_path=\"$MODEL_BASE_PATH/$MODEL_NAME\" \"$@\"", "ladle"]
