#!/bin/sh
# Counts the issue slots of a kernel's loops over tensor operations, in machine code.
#
#   scripts/count-slots.sh ENTRY [ARCH...]     for example: scripts/count-slots.sh prefill_bf16_d128 sm_80 sm_90
#
# One line per architecture: registers, and instructions that access local memory. One line per loop: instructions (issue
# slots), tensor operations, and the slots that are not tensor operations for each one that is, on the fast path and on
# all paths. The fast path leaves out what a branch within the loop may skip, if that holds neither tensor operations nor
# copies; what it leaves out is listed, in the order of the code, with the exponentials (MUFU) of each part; and, of two ways
# to copy, the one that fills with zeros, for the end of a tensor. Loops that hold other loops are not listed. Needs scripts/setup-nvcc.sh --disassembler.
set -eu

entry=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
ptxas=$root/.tools/cuda/nvidia/cu13/bin/ptxas
nvdisasm=$root/.tools/disassembler/nvidia/cu13/bin/nvdisasm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for arch in ${*:-sm_80 sm_89 sm_90}; do
    "$ptxas" -arch="$arch" -v -o "$work/cubin" "$root/ptx/sm_80/$entry.ptx" 2>"$work/log"
    registers=$(sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' "$work/log")
    "$nvdisasm" -c "$work/cubin" | awk -v name="$entry $arch" -v registers="$registers" '
        /^\.L_x_[0-9]+:/ { sub(":", "", $1); label[$1] = n }
        /^ +\/\*[0-9a-f]+\*\// {
            tensor[n] = /MMA/
            mufu[n] = /MUFU/
            copy[n] = /LDGSTS/
            fills[n] = /LDGSTS.*ZFILL/
            always[n] = / BRA/ && !/@/
            exits += / EXIT/
            exit_before[n] = exits
            local += / (LDL|STL)/
            if (/ (BRA|CALL\.REL\.NOINC) / && match($0, /\.L_x_[0-9]+/)) target[n] = substr($0, RSTART, RLENGTH)
            n++
        }
        # A branch back to `first`; not one from code behind the end of the kernel, which a loop only rarely visits.
        function is_loop(from) {
            return from in target && label[target[from]] <= from && exit_before[label[target[from]]] == exit_before[from]
        }
        END {
            printf "%s: %d registers, %d local accesses\n", name, registers, local
            for (from = 0; from < n; from++) {
                if (!is_loop(from)) continue
                first = label[target[from]]
                mma = inner = 0
                for (i = first; i <= from; i++) { mma += tensor[i]; skipped[i] = 0 }
                for (i = first; i < from; i++) {
                    if (!is_loop(i) || label[target[i]] < first) continue
                    for (j = label[target[i]]; j <= i; j++) inner += tensor[j]
                }
                if (!mma || inner) continue
                parts = ""
                for (i = first; i <= from; i++) {
                    if (!(i in target) || label[target[i]] <= i || label[target[i]] > from || skipped[i]) continue
                    needed = special = 0
                    for (j = i + 1; j < label[target[i]]; j++) { needed += tensor[j] + copy[j]; special += mufu[j] }
                    if (needed) continue
                    for (j = i + 1; j < label[target[i]]; j++) skipped[j] = 1
                    parts = parts (parts == "" ? "" : ", ") (label[target[i]] - i - 1) " (" special ")"
                }
                # Either this, which ends in a jump over the other, or the other: what copies the end of a tensor is rare.
                for (i = first; i <= from; i++) {
                    if (!(i in target) || always[i]) continue
                    end = label[target[i]] - 1
                    if (end <= i || end >= from || !always[end] || label[target[end]] <= end) continue
                    needed = rare = 0
                    for (j = i + 1; j <= end; j++) { needed += tensor[j]; rare += fills[j] }
                    if (needed || !rare) continue
                    for (j = i + 1; j <= end; j++) skipped[j] = 1
                    parts = parts (parts == "" ? "" : ", ") (end - i) " at the end of a tensor"
                }
                slots = from - first + 1
                fast = slots
                for (i = first; i <= from; i++) fast -= skipped[i]
                printf "    loop of %d slots, %d of them tensor operations: %.2f fast, %.2f all; skipped: %s\n", slots, mma, \
                    (fast - mma) / mma, (slots - mma) / mma, parts
            }
        }'
done
