#!/bin/sh
# Fuzzes the emulator: scripts/fuzz.sh TARGET RUNS SEED
#
# TARGET is `text` (lexer, parser, binder, and the machine on what comes through) or `machine` (programs
# made of the instruction table). What was found interesting stays in emulator/fuzz/corpus, so a later
# run goes on from there. Seeds for `text` are the programs in the emulator's tests and pieces of ptx/.
# Needs python3 and a C++ compiler; installs cargo-fuzz into .tools if there is none.
set -eu

target=$1 runs=$2 seed=$3
cd "$(dirname "$0")/.."
PATH="$PATH:$PWD/.tools/bin"
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --root .tools cargo-fuzz@0.13
corpus=emulator/fuzz/corpus/$target
mkdir -p "$corpus"

python3 - "$target" "$corpus" <<'PYTHON'
import glob, hashlib, os, re, sys

target, corpus = sys.argv[1:]
HEAD = """.version 7.8
.target sm_80
.address_size 64
.visible .entry k(.param .u64 out, .param .u64 in)
{
.reg .b64 %out, %in;
.reg .b32 %r<40>;
.reg .b64 %d<20>;
.reg .b16 %h<20>;
.reg .f32 %f<40>;
.reg .pred %p<10>;
ld.param.u64 %out, [out];
ld.param.u64 %in, [in];
"""


def keep(data):
    with open(os.path.join(corpus, "seed-" + hashlib.sha1(data).hexdigest()[:12]), "wb") as file:
        file.write(data)


def module(text):
    keep((text if ".version" in text else HEAD + text + "\nret;\n}\n").encode())


if target == "text":
    sources = ["emulator/src/lib.rs", *glob.glob("emulator/tests/*.rs"), *glob.glob("emulator/src/parse/*.rs")]
    for source in sources:
        for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', open(source).read(), re.S):
            if ";" in literal:
                text = re.sub(r"\\\n\s*", "", literal).replace("\\n", "\n").replace('\\"', '"')
                module(text.replace("{{", "{").replace("}}", "}"))
    for source in glob.glob("ptx/*/*.ptx"):
        lines = open(source).read().split("\n")
        for first in range(0, len(lines), 200):
            piece = (line.strip() for line in lines[first : first + 60])
            module("\n".join(line for line in piece if line.endswith(";") and not line.startswith(".")))
else:
    for index in range(500):
        digest = hashlib.shake_128(b"%d" % index)
        keep(digest.digest(16 + index % 300))
PYTHON

exec cargo fuzz run --fuzz-dir emulator/fuzz --sanitizer none "$target" -- \
    -runs="$runs" -seed="$seed" -max_len=4096 -rss_limit_mb=4096 -timeout=20 -print_final_stats=1
