#!/bin/sh
# Makes a stub CUDA root in DIR (default: target/stub-cuda) and prints its path: what the `cust`
# feature needs to compile and link on a machine without CUDA.
#
#   export CUDA_LIBRARY_PATH="$(scripts/stub-libcuda.sh)"
#   LD_LIBRARY_PATH="$CUDA_LIBRARY_PATH/lib64" cargo test --features cust
#
# Every function of its libcuda.so.1 returns 100, CUDA_ERROR_NO_DEVICE, and does nothing else: code
# that runs on it must come to a clean "no device". A stub that returned 0 would let tests pass on
# nothing. The functions are those that cust's bindings name. Needs cc, cargo and python3.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/target/stub-cuda}
mkdir -p "$dir/lib64"
dir=$(cd "$dir" && pwd)

if [ ! -e "$dir/lib64/libcuda.so.1" ]; then
    bindings=$(cargo metadata --manifest-path "$root/Cargo.toml" --format-version 1 --features cust |
        python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
[manifest] = [p["manifest_path"] for p in packages if p["name"] == "cust_raw"]
print(os.path.join(os.path.dirname(manifest), "src", "cuda.rs"))')
    grep -oE 'pub fn cu[A-Za-z0-9_]+' "$bindings" | sort -u |
        sed -E 's/pub fn (.*)/int \1(void) { return 100; }/' |
        cc -xc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$dir/lib64/libcuda.so" -
    ln -sf libcuda.so "$dir/lib64/libcuda.so.1"
fi

echo "$dir"
