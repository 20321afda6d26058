#!/bin/sh
# Changes one instruction of an entry at a time, and counts what its family's tests notice:
#
#   scripts/mutants.sh ENTRY [SAMPLE [DRAW]]     for example: scripts/mutants.sh prefill_bf16_d128_full 400
#
# Two kinds are not drawn: roundings to the other side, which are within every bound that a test could have, and types
# of the other sign, of numbers that are never negative. tests/mutants lists mutants that compute the same.
# Fails if, with 95 % confidence, fewer than 95 % of such mutants would be noticed.
set -eu

entry=$1 sample=${2:-400} draw=${3:-0}
cd "$(dirname "$0")/.."
kinds=barrier,wait,order,branch,guard,comparison,logic,select,exchange,address,constant,fragment,arithmetic,copy,store,deletion

# program TEST: builds a test and prints where it is.
program() {
    cargo test --no-run --test "$1" --message-format json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}
lists=$(mktemp)
trap 'rm -f "$lists"' EXIT
family=${entry%%_*}
# What computes the same, for the family and for some of its entries. What notices most comes first.
case $entry in
prefill_*)
    tests=$(program prefill)
    cat tests/mutants/prefill.txt >"$lists"
    case $entry in
    *_paged | *_full) ;;
    *) cat tests/mutants/prefill_lean.txt >>"$lists" ;;
    esac
    test="$tests entries::every_entry_on_a_long_walk &&
        INFER_KERNELS_CASES=0..30 $tests entries::every_entry_by entries::every_entry_in entries::every_entry_reports \
            entries::every_entry_with &&
        INFER_KERNELS_CASES=0..400 $tests hostile::garbage_is hostile::each_offence hostile::sequences_cannot \
            special::a_reference &&
        INFER_KERNELS_CASES=0..320 $tests random::"
    ;;
moe_grouped_*)
    tests=$(program moe)
    # Of other products, what does not speak of their registers.
    grep -v '%[a-z]*[0-9]' tests/mutants/gemm.txt >"$lists"
    cat tests/mutants/moe.txt >>"$lists"
    test="export INFER_KERNELS_ENTRY=$entry
        INFER_KERNELS_CASES=0..300 $tests layer::random && $tests layer:: && INFER_KERNELS_CASES=300..1000 $tests layer::random"
    ;;
moe_*)
    tests=$(program moe)
    cat tests/mutants/moe.txt >"$lists"
    test="INFER_KERNELS_CASES=0..100 $tests stages:: && INFER_KERNELS_CASES=100..600 $tests stages:: &&
        INFER_KERNELS_CASES=0..10 $tests layer::random"
    ;;
*)
    tests=$(program "$family")
    cat "tests/mutants/$family.txt" >"$lists" 2>/dev/null || true
    test="export INFER_KERNELS_ENTRY=$entry
        INFER_KERNELS_CASES=0..20 $tests entries:: && INFER_KERNELS_CASES=0..200 $tests random &&
        INFER_KERNELS_CASES=20..120 $tests entries:: &&
        $tests && INFER_KERNELS_CASES=200..1000 $tests random"
    ;;
esac
cargo run --quiet --package ptx-emulator --features cli --bin ptxrun -- mutate "ptx/sm_80/$entry.ptx" \
    --test "($test) >/dev/null 2>&1" --sample "$sample" --kinds "$kinds" \
    --draw "$draw" --equivalent "$lists" --at-least 95
