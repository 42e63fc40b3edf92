#!/usr/bin/env bash
# bench/gpu.sh OUT_DIR: the CUDA kernels on the GPU of this machine, in under nine minutes and without a
# network. Needs nvcc, CMake, ninja, a compiler, and in python3 scikit-build-core, pybind11, pytest,
# CuPy and PyTorch. Builds for this device, runs the device half of the tests, compute-sanitizer on a
# part of them, and the benchmarks. OUT_DIR gets build.txt, tests.txt, sanitizer-*.txt, gpu.json, gpu.txt.
# Every part runs even when one before it failed; the exit code is 1 then.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bench/gpu.sh OUT_DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
build=${ARRAYNN_GPU_BUILD:-build/gpu}
arch=${ARRAYNN_CUDA_ARCHS:-90a-real}
jobs=$(nproc)
failed=0

# part NAME SECONDS COMMAND...: its output goes to NAME.txt, its last lines are shown.
part() {
  local name=$1 limit=$2 start=$SECONDS code
  shift 2
  timeout -k 10 "$limit" "$@" >"$out/$name.txt" 2>&1
  code=$?
  [ $code -eq 0 ] || failed=1
  printf '== %-18s %4d s, exit code %d\n' "$name" $((SECONDS - start)) $code
  tail -n "${SHOW:-2}" "$out/$name.txt"
}

build_all() {
  "$python" -c 'import pybind11' && command -v nvcc cmake ninja || return 1
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DARRAYNN_CUDA=ON \
    -DARRAYNN_CUDA_ARCHS="$arch" -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    ninja -C "$build" -j "$jobs" _core _cuda &&
    cmake --install "$build" --prefix python
}

git rev-parse HEAD >"$out/commit.txt" 2>/dev/null
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit,memory.total \
  --format=csv >"$out/device.txt" 2>&1
cat "$out/device.txt"
SHOW=4 part build 180 build_all
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
"$python" -c 'import arraynn as ann; print(ann.show_config()); assert ann.cuda.is_available()' \
  >"$out/config.txt" 2>&1 || { failed=1; cat "$out/config.txt"; }
# A warning of CuPy or PyTorch is no failure of ours.
pytest=("$python" -m pytest -q -p no:cacheprovider -W default -m cuda tests/cuda)
part tests 120 "${pytest[@]}"
SHOW=20 part gpu 120 "$python" -m bench.gpu --json "$out/gpu.json"
if command -v compute-sanitizer >/dev/null; then
  subset='test_out_is_filled or test_slices or test_dropout or test_no_arrays'
  for tool in memcheck racecheck; do
    part "sanitizer-$tool" 50 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --target-processes all "${pytest[@]}" -k "$subset" -x
  done
fi
echo "all $SECONDS s"
exit $failed
