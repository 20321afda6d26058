#!/bin/sh
# Builds the CUDA driver API on the emulator and installs it in DIR (default: target/emulated-cuda)
# as a driver would be; prints the path.
#
#   LD_LIBRARY_PATH="$(scripts/emulated-libcuda.sh)/lib64" some-program-that-uses-cuda
#
# PROFILE is the cargo profile to build with (default: dev). BUILD_WITH holds further arguments of
# `cargo build`: built together with other packages, dependencies get the same features, so that
# what was compiled for those serves here too. See docs/libcuda.md.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
dir=${1:-$target/emulated-cuda}
profile=${PROFILE:-dev}
cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --package ptx-emulator-libcuda \
    --profile "$profile" ${BUILD_WITH:-} >&2

case $profile in
dev | test) built=debug ;;
*) built=$profile ;;
esac
mkdir -p "$dir/lib64"
cp "$target/$built/libemulated_cuda.so" "$dir/lib64/libcuda.so.1.new"
mv "$dir/lib64/libcuda.so.1.new" "$dir/lib64/libcuda.so.1"
ln -sf libcuda.so.1 "$dir/lib64/libcuda.so"

(cd "$dir" && pwd)
