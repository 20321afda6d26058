#!/bin/sh
# Puts the pinned CUDA compiler into .tools/ (git ignores it) and prints the path of its nvcc.
#
#   scripts/setup-nvcc.sh                    nvcc 13.0, ptxas 13.0 and the headers: about 105 MB to download
#   scripts/setup-nvcc.sh --old-assemblers   also the ptxas of CUDA 11.8, 12.0, 12.4 and 12.9
#   scripts/setup-nvcc.sh --disassembler     also nvdisasm and cuobjdump
#
# Needs python3 with pip and, when nvcc runs, gcc. Takes no time when everything is there already.
# build.rs and `cargo xtask` look into .tools/ by themselves: nothing has to be exported.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools

# One folder per set of packages. A set is complete when its stamp holds the pins it was made from.
# usage: install FOLDER PACKAGE==VERSION...
install() {
    folder=$tools/$1
    shift
    if [ "$(cat "$folder/.pins" 2>/dev/null)" = "$*" ]; then
        return
    fi
    echo "installing $* into $folder" >&2
    rm -rf "$folder" "$folder.partial"
    mkdir -p "$tools"
    pip_install --target "$folder.partial" "$@" >&2
    echo "$*" >"$folder.partial/.pins"
    mv "$folder.partial" "$folder"
}

pip_install() {
    if python3 -m pip --version >/dev/null 2>&1; then
        pip="python3 -m pip"
    elif [ -x "$tools/pip/bin/pip" ] || python3 -m venv "$tools/pip" >&2; then
        pip=$tools/pip/bin/pip
    else
        echo "error: python3 has neither pip nor venv; on Debian: apt-get install python3-pip" >&2
        exit 1
    fi
    $pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check \
        --no-warn-script-location --root-user-action ignore "$@"
}

if ! command -v gcc >/dev/null; then
    echo "warning: nvcc calls gcc, which is not on PATH; on Debian: apt-get install gcc" >&2
fi

install cuda \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85

for option; do
    case $option in
    --old-assemblers)
        install ptxas-11.8 nvidia-cuda-nvcc-cu11==11.8.89
        install ptxas-12.0 nvidia-cuda-nvcc-cu12==12.0.140
        install ptxas-12.4 nvidia-cuda-nvcc-cu12==12.4.131
        install ptxas-12.9 nvidia-cuda-nvcc-cu12==12.9.86
        ;;
    --disassembler)
        install disassembler nvidia-cuda-nvdisasm==13.5.37 nvidia-cuda-cuobjdump==13.5.37
        ;;
    *)
        echo "error: unknown option $option" >&2
        exit 2
        ;;
    esac
done

echo "$tools/cuda/nvidia/cu13/bin/nvcc"
