//! Mutants: what each instruction could be instead, which are drawn, and that they load.

mod common;

use std::collections::{BTreeMap, HashSet};

use common::module;
use ptx_emulator::mutate::{Kind, Mutant, at_least, mutants, sample};
use ptx_emulator::{Config, Emulator};

/// The mutants of one instruction: kind and text.
fn of(instruction: &str) -> Vec<(Kind, String)> {
    let text = module(&format!("{instruction}\nadd.u32 %r1, %r1, %r1;"));
    let all = mutants(&text).unwrap();
    let line = text.lines().position(|line| line == instruction).unwrap() as u32 + 1;
    let all = all.into_iter().filter(|mutant| mutant.line == line);
    all.map(|mutant| (mutant.kind, mutant.after)).collect()
}

#[track_caller]
fn check(instruction: &str, expected: &[(Kind, &str)]) {
    let got = of(instruction);
    let got: Vec<(Kind, &str)> = got
        .iter()
        .map(|(kind, after)| (*kind, after.as_str()))
        .collect();
    assert_eq!(got, expected, "{instruction}");
}

#[test]
fn barriers_and_fences_are_left_out_and_weakened() {
    use Kind::{Barrier, Fence, Order, Store, Wait};
    check(
        "bar.sync 0;",
        &[(Barrier, ""), (Barrier, "bar.warp.sync 0xffffffff;")],
    );
    check("bar.warp.sync 0xffffffff;", &[(Barrier, "")]);
    check(
        "bar.red.or.pred %p1, 0, %p2;",
        &[(Barrier, ""), (Barrier, "bar.red.and.pred %p1, 0, %p2;")],
    );
    check(
        "cp.async.wait_group 1;",
        &[(Wait, ""), (Wait, "cp.async.wait_group 2;")],
    );
    check("cp.async.wait_all;", &[(Wait, "")]);
    check("cp.async.commit_group;", &[(Wait, "")]);
    check(
        "cp.async.mbarrier.arrive.shared.b64 [%r1];",
        &[
            (Wait, ""),
            (
                Kind::Address,
                "cp.async.mbarrier.arrive.shared.b64 [%r1+8];",
            ),
            (
                Kind::Address,
                "cp.async.mbarrier.arrive.shared.b64 [%r1+-8];",
            ),
        ],
    );
    let all = of("mbarrier.arrive.shared.b64 %d1, [%r1];");
    assert!(all.contains(&(Barrier, String::new())), "{all:?}");
    let all = of("mbarrier.test_wait.shared.b64 %p1, [%r1], %d1;");
    assert!(
        all.contains(&(Wait, "setp.eq.u32 %p1, 0, 0;".into())),
        "{all:?}"
    );
    check(
        "fence.sc.gpu;",
        &[
            (Fence, ""),
            (Fence, "fence.acq_rel.gpu;"),
            (Fence, "fence.sc.cta;"),
        ],
    );
    check("membar.gl;", &[(Fence, ""), (Fence, "membar.cta;")]);
    let all = of("st.release.gpu.global.u32 [%out], %r1;");
    assert!(
        all.contains(&(Order, "st.relaxed.gpu.global.u32 [%out], %r1;".into())),
        "{all:?}"
    );
    assert!(
        all.contains(&(Order, "st.release.cta.global.u32 [%out], %r1;".into())),
        "{all:?}"
    );
    assert!(all.contains(&(Store, String::new())), "{all:?}");
    let all = of("atom.global.add.u32 %r1, [%out], 1;");
    assert!(
        all.contains(&(Order, "atom.cta.global.add.u32 %r1, [%out], 1;".into())),
        "{all:?}"
    );
}

#[test]
fn branches_and_predicates_turn_around() {
    use Kind::{Branch, Comparison, Deletion, Guard, Logic, Type};
    check("ret;", &[(Branch, "")]);
    check(
        "@!%p1 exit;",
        &[(Branch, "@%p1 exit;"), (Branch, "exit;"), (Branch, "")],
    );
    check(
        "@%p1 mov.b32 %r1, %r2;",
        &[
            (Guard, "@!%p1 mov.b32 %r1, %r2;"),
            (Guard, "mov.b32 %r1, %r2;"),
            (Deletion, ""),
        ],
    );
    check(
        "setp.lt.s32 %p1, %r1, %r2;",
        &[
            (Comparison, "setp.le.s32 %p1, %r1, %r2;"),
            (Comparison, "setp.ge.s32 %p1, %r1, %r2;"),
            (Type, "setp.lt.u32 %p1, %r1, %r2;"),
            (Deletion, ""),
        ],
    );
    check(
        "setp.eq.and.f32 %p1, %f1, %f2, %p2;",
        &[
            (Comparison, "setp.ne.and.f32 %p1, %f1, %f2, %p2;"),
            (Logic, "setp.eq.or.f32 %p1, %f1, %f2, %p2;"),
            (Deletion, ""),
        ],
    );
    check(
        "and.pred %p1, %p2, %p3;",
        &[(Logic, "or.pred %p1, %p2, %p3;"), (Deletion, "")],
    );
}

/// A branch to what follows it, and the last exit, do nothing: leaving them out is no mutant.
#[test]
fn what_flows_there_anyway_is_not_left_out() {
    let of_line = |text: &str, wanted: &str| -> Vec<String> {
        let all = mutants(text).unwrap().into_iter();
        all.filter(|mutant| mutant.before == wanted)
            .map(|mutant| mutant.after)
            .collect()
    };
    let text = module("@%p1 bra L;\nL: bra M;\nmov.u32 %r1, 1;\nM:");
    assert_eq!(of_line(&text, "@%p1 bra L;"), ["@!%p1 bra L;", "bra L;"]);
    assert_eq!(of_line(&text, "bra M;"), [""]);
    assert!(of_line(&text, "ret;").is_empty());
}

#[test]
fn operands_move_and_change() {
    use Kind::{Address, Arithmetic, Constant, Deletion, Exchange, Fragment, Select, Store};
    check(
        "st.global.v2.u32 [%out+8], {%r1, %r2};",
        &[
            (Address, "st.global.v2.u32 [%out+16], {%r1, %r2};"),
            (Address, "st.global.v2.u32 [%out], {%r1, %r2};"),
            (Fragment, "st.global.v2.u32 [%out+8], {%r2, %r1};"),
            (Store, ""),
        ],
    );
    check(
        "ld.shared.u16 %h1, [%r1+-2];",
        &[
            (Address, "ld.shared.u16 %h1, [%r1];"),
            (Address, "ld.shared.u16 %h1, [%r1+-4];"),
            (Kind::Type, "ld.shared.s16 %h1, [%r1+-2];"),
            (Deletion, ""),
        ],
    );
    check(
        "shl.b32 %r1, %r2, 0x5;",
        &[
            (Constant, "shl.b32 %r1, %r2, 6;"),
            (Constant, "shl.b32 %r1, %r2, 4;"),
            (Deletion, ""),
        ],
    );
    check(
        "mul.f32 %f1, %f2, 0f3FB8AA3B;",
        &[
            (Constant, "mul.f32 %f1, %f2, 0f4038AA3B;"),
            (Arithmetic, "add.f32 %f1, %f2, 0f3FB8AA3B;"),
            (Deletion, ""),
        ],
    );
    check(
        "shfl.sync.bfly.b32 %r1|%p1, %r2, 1, 31, -1;",
        &[
            (Exchange, "shfl.sync.down.b32 %r1|%p1, %r2, 1, 31, -1;"),
            (Exchange, "shfl.sync.bfly.b32 %r1|%p1, %r2, 2, 31, -1;"),
            (Deletion, ""),
        ],
    );
    check(
        "selp.b32 %r1, %r2, %r3, %p1;",
        &[(Select, "selp.b32 %r1, %r3, %r2, %p1;"), (Deletion, "")],
    );
    check(
        "fma.rn.f32 %f1, %f2, %f3, %f4;",
        &[
            (Kind::Rounding, "fma.rz.f32 %f1, %f2, %f3, %f4;"),
            (Arithmetic, "mul.rn.f32 %f1, %f2, %f3;"),
            (Deletion, ""),
        ],
    );
}

#[test]
fn fragments_lose_their_order() {
    let mma = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, \
               {%r4, %r5}, {%f0, %f1, %f2, %f3};";
    let all = of(mma);
    let count = |kind| all.iter().filter(|(k, _)| *k == kind).count();
    assert_eq!(count(Kind::Fragment), 3 + 3 + 1 + 3);
    assert_eq!(count(Kind::Type), 1);
    assert!(all.contains(&(Kind::Fragment, mma.replace("{%r4, %r5}", "{%r5, %r4}"))));
    let copy = "cp.async.cg.shared.global [%r1], [%in], 16, %r2;";
    let all = of(copy);
    assert!(
        all.contains(&(Kind::Copy, copy.replace("16, %r2", "16, 16"))),
        "{all:?}"
    );
    assert!(
        all.contains(&(Kind::Address, copy.replace("%in", "%in+16"))),
        "{all:?}"
    );
    let load = "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r1, %r2}, [%r3];";
    let all = of(load);
    assert!(
        all.contains(&(Kind::Fragment, load.replace(".trans", ""))),
        "{all:?}"
    );
}

/// What ran before still stands at its line.
#[test]
fn lines_stay_where_they_are() {
    let text = module("add.u32 %r1,\n  %r2,\n  %r3; mov.u32 %r4, %r1;\n.loc 1 7 0\nbar.sync 0;");
    for mutant in mutants(&text).unwrap() {
        let changed = mutant.apply(&text);
        assert_eq!(changed.lines().count(), text.lines().count(), "{mutant:?}");
        let differing = changed
            .lines()
            .zip(text.lines())
            .filter(|(a, b)| a != b)
            .count();
        assert!((1..=3).contains(&differing), "{mutant:?}");
    }
    let barrier = mutants(&text)
        .unwrap()
        .into_iter()
        .find(|mutant| mutant.kind == Kind::Barrier)
        .unwrap();
    assert_eq!(barrier.source, Some(("file 1".into(), 7)));
}

const OPCODES: &str = include_str!("opcodes.ptx");

/// A mutant that does not load shows nothing about tests. Of these, the other form is not in the ISA.
#[test]
fn mutants_of_every_opcode_load() {
    let (head, rest) = OPCODES.split_once("n;\n").expect("a head");
    let (body, tail) = rest.split_once("L:\n").expect("a tail");
    let device = Emulator::new(Config::default());
    let (mut all, mut refused) = (0, Vec::new());
    for line in body.lines() {
        let text = format!("{head}n;\n{line}\nL:\n{tail}");
        let mutants = mutants(&text)
            .unwrap()
            .into_iter()
            .filter(|mutant| mutant.before == line);
        for mutant in mutants {
            all += 1;
            let loaded = device
                .load(&mutant.apply(&text))
                .and_then(|module| module.kernel("k").map(drop));
            if loaded.is_err() {
                refused.push(format!(
                    "{} {} => {}",
                    mutant.kind, mutant.before, mutant.after
                ));
            }
        }
    }
    assert!(all > 900, "{all}");
    assert!(
        refused.len() * 100 <= all,
        "{} of {all}:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

fn key(mutant: &Mutant) -> (u32, &str) {
    (mutant.line, &mutant.after)
}

#[test]
fn kinds_get_equal_shares_and_lines_take_turns() {
    let all = mutants(OPCODES).unwrap();
    let drawn = sample(&all, 100, 7);
    assert_eq!(drawn, sample(&all, 100, 7));
    assert_ne!(drawn, sample(&all, 100, 8));
    assert_eq!(drawn.len(), 100);
    assert_eq!(drawn.iter().map(key).collect::<HashSet<_>>().len(), 100);
    let mut known: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut shares: BTreeMap<Kind, Vec<u32>> = BTreeMap::new();
    for mutant in &all {
        *known.entry(mutant.kind).or_default() += 1;
    }
    for mutant in &drawn {
        shares.entry(mutant.kind).or_default().push(mutant.line);
    }
    let most = shares.values().map(Vec::len).max().unwrap();
    for (kind, known) in known {
        let share = shares.get(&kind).map_or(0, Vec::len);
        assert!(share >= known.min(most - 1), "{kind}: {share} of {known}");
    }
    // The lines of a kind that has enough of them are all different.
    for kind in [Kind::Deletion, Kind::Address] {
        let lines = &shares[&kind];
        assert_eq!(
            lines.iter().collect::<HashSet<_>>().len(),
            lines.len(),
            "{kind}"
        );
    }
    // All, if there are not enough.
    assert_eq!(sample(&all, usize::MAX, 0), all);
    assert!(sample(&[], 5, 0).is_empty());
}

/// Known values: 0.05^(1/n) where all are noticed, 1 - 0.95^(1/n) where one is, and binomial
/// tails summed with exact fractions.
#[test]
fn bounds_are_those_of_the_binomial_distribution() {
    let near = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-9, "{got} {expected}");
    near(at_least(400, 400, 0.95), 0.05f64.powf(1.0 / 400.0));
    near(at_least(1, 20, 0.95), 1.0 - 0.95f64.powf(1.0 / 20.0));
    near(at_least(2, 2, 0.95), 0.05f64.sqrt());
    // p^2 (3 - 2p) = 0.05
    let p = at_least(2, 3, 0.95);
    near(p * p * (3.0 - 2.0 * p), 0.05);
    assert_eq!(at_least(0, 9, 0.95), 0.0);
    assert_eq!(at_least(0, 0, 0.95), 0.0);
    // Of many, it is 1.645 deviations below the share.
    let many = at_least(90_000, 100_000, 0.95);
    assert!(
        (many - (0.9 - 1.645 * (0.09f64 / 1e5).sqrt())).abs() < 2e-5,
        "{many}"
    );
}
