#!/bin/sh
# Runs a command with the CUDA driver on the emulator, which is built if it has to be:
#
#   scripts/with-emulated-libcuda.sh cargo test --all-features --test driver
#
# What it links against, if it links a driver at all, is the stub of scripts/stub-libcuda.sh.
set -eu

scripts=$(cd "$(dirname "$0")" && pwd)
CUDA_LIBRARY_PATH=${CUDA_LIBRARY_PATH:-$("$scripts/stub-libcuda.sh")}
export CUDA_LIBRARY_PATH
driver=$("$scripts/emulated-libcuda.sh")
LD_LIBRARY_PATH="$driver/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LD_LIBRARY_PATH
exec "$@"
