#!/usr/bin/env bash
# Serves the embedded model and lets scripts/make_calibration_data.py talk to it.
set -euo pipefail
cd "$(dirname "$0")/.."
model=$(.venv/bin/python -c 'from quantpress.model import source; from quantpress.runtime.console import Console; print(source.resolve("embedded", Console()).path)')
export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND-0-$(($(nproc) - 1))} VLLM_CPU_KVCACHE_SPACE=2 VLLM_NO_USAGE_STATS=1
port=8123
.venv-vllm/bin/vllm serve "$model" --port $port --enforce-eager --max-model-len 2048 --served-model-name m --seed 0 >/dev/null 2>&1 &
trap 'kill %1; wait' EXIT
echo "starting vLLM on $model"
until curl -fs "http://127.0.0.1:$port/health" >/dev/null; do sleep 1; kill -0 %1; done
.venv/bin/python scripts/make_calibration_data.py --url "http://127.0.0.1:$port" --model m
