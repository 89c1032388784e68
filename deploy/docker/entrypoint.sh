#!/bin/sh
# What tensorflow/serving's image runs: the flags below, and whatever the container is given.
# Of a flag that comes twice the last one counts, and --model_config_file comes before both of
# --model_name and --model_base_path.
# As upstream's, it opens its ports once the models are there; --wait_for_models=false after it
# opens them at once.
exec ladle serve \
  --wait_for_models=true \
  --port=8500 \
  --rest_api_port=8501 \
  --model_name="${MODEL_NAME:-model}" \
  --model_base_path="${MODEL_BASE_PATH:-/models}/${MODEL_NAME:-model}" \
  "$@"
