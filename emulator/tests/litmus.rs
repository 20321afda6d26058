//! Litmus tests of PTX's memory consistency model: what it allows is reached under some seed, what it
//! forbids under none.
//!
//! Each thread is a list of operations on `x`, `y`, `z`, which start as 0:
//!
//! | written | PTX |
//! | --- | --- |
//! | `W.order.scope x 1` | `st.order.scope.global.u32 [x], 1` |
//! | `R.order.scope x 0` | `ld.order.scope.global.u32 r0, [x]` |
//! | `A.order.scope.op x 1 0` | `atom.order.scope.global.op r0, [x], 1` |
//! | `C x 0` | `st.relaxed.gpu.global.u32 [x], r0` |
//! | `F.kind.scope` | `fence.kind.scope` |
//!
//! The axioms are those of the chapter "Memory Consistency Model" of the PTX ISA.

use ptx_emulator::{Checks, Config, Emulator, LaunchConfig};

/// Seeds under which what is forbidden must not be reached.
const NEVER: u64 = 300;
/// Seeds under which what is allowed has to be reached. The rarest comes about once in a hundred.
const ONCE: u64 = 3000;

/// Where threads are: each in its own block, or each in a warp of the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Blocks,
    Warps,
}
use Where::{Blocks, Warps};

/// Results of the registers, and the last values of `x`, `y`, `z`.
type End = ([u32; 8], [u32; 3]);

fn ptx(threads: &[&str], place: Where) -> String {
    let offset = |name: &str| match name {
        "x" => 0,
        "y" => 64,
        _ => 128,
    };
    let mut text = String::from(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 m) {\n\
         .reg .b64 %m; .reg .b32 %r<20>; .reg .pred %p; ld.param.u64 %m, [m];\n",
    );
    text += match place {
        Blocks => "mov.u32 %r1, %ctaid.x;\n",
        Warps => "mov.u32 %r1, %laneid; setp.ne.u32 %p, %r1, 0; @%p ret; mov.u32 %r1, %warpid;\n",
    };
    for n in 0..threads.len() {
        text += &format!("setp.eq.u32 %p, %r1, {n}; @%p bra T{n};\n");
    }
    for (n, thread) in threads.iter().enumerate() {
        text += &format!("T{n}:\n");
        let mut results = Vec::new();
        for operation in thread.split(';').map(str::trim) {
            let mut words = operation.split(' ');
            let mut next = || words.next().unwrap_or_else(|| panic!("{operation}"));
            let (kind, order) = next().split_once('.').unwrap_or(("C", ""));
            text += &match kind {
                "W" => format!(
                    "st.{order}.global.u32 [%m+{}], {};\n",
                    offset(next()),
                    next()
                ),
                "R" | "A" => {
                    let place = offset(next());
                    let value = if kind == "A" { next() } else { "" };
                    let result = next();
                    results.push(result);
                    match kind {
                        "R" => format!("ld.{order}.global.u32 %r1{result}, [%m+{place}];\n"),
                        _ => {
                            let (order, op) = order.rsplit_once('.').unwrap();
                            format!(
                                "atom.{order}.global.{op} %r1{result}, [%m+{place}], {value};\n"
                            )
                        }
                    }
                }
                "C" => format!(
                    "st.relaxed.gpu.global.u32 [%m+{}], %r1{};\n",
                    offset(next()),
                    next()
                ),
                _ => format!("fence.{order};\n"),
            };
        }
        for result in results {
            text += &format!(
                "st.global.u32 [%m+{}], %r1{result};\n",
                256 + 4 * result.parse::<u32>().unwrap()
            );
        }
        text += "ret;\n";
    }
    text + "}\n"
}

/// Whether a seed's run ends in a way that `end` accepts, for as many seeds as one asks.
fn runs(threads: &[&str], place: Where, end: impl Fn(&End) -> bool) -> impl Iterator<Item = bool> {
    let text = ptx(threads, place);
    let count = threads.len() as u32;
    let run = move |seed: u64| {
        let device = Emulator::new(Config {
            checks: Checks::ALL,
            seed,
            budget: 100_000,
            ..Config::default()
        });
        let memory = device.alloc(512).unwrap();
        device.fill(memory, 0, 512).unwrap();
        let kernel = device
            .load(&text)
            .unwrap()
            .kernel("k")
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
        let (grid, block) = match place {
            Blocks => ([count, 1, 1], [1, 1, 1]),
            Warps => ([1, 1, 1], [32 * count, 1, 1]),
        };
        let shape = LaunchConfig {
            grid,
            block,
            dynamic_smem: 0,
        };
        let launched = device.launch(&kernel, &shape, &[&memory.to_le_bytes()]);
        launched.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        let word = |at: u64| {
            let mut bytes = [0; 4];
            device.read(memory + at, &mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        };
        let results = std::array::from_fn(|n| word(256 + 4 * n as u64));
        end(&(results, [word(0), word(64), word(128)]))
    };
    (0..).map(run)
}

#[track_caller]
fn allowed(threads: &[&str], place: Where, end: impl Fn(&End) -> bool) {
    let (mut reached, mut missed) = (false, false);
    for end in runs(threads, place, end).take(ONCE as usize) {
        (reached, missed) = (reached || end, missed || !end);
        if reached && missed {
            return;
        }
    }
    assert!(
        reached,
        "{threads:?} in {place:?}: allowed, but not reached"
    );
    panic!("{threads:?} in {place:?}: nothing else is reached");
}

#[track_caller]
fn forbidden(threads: &[&str], place: Where, end: impl Fn(&End) -> bool) {
    let seed = runs(threads, place, end)
        .take(NEVER as usize)
        .position(|end| end);
    assert_eq!(
        seed, None,
        "{threads:?} in {place:?}: forbidden, but reached under this seed"
    );
}

/// Replaces `W` and `R` without an order by relaxed ones of this scope.
fn relaxed(scope: &str, threads: &[&str]) -> Vec<String> {
    let spell = |thread: &&str| {
        thread
            .replace("W ", &format!("W.relaxed.{scope} "))
            .replace("R ", &format!("R.relaxed.{scope} "))
    };
    threads.iter().map(spell).collect()
}

/// A shape of test, with `%` where a fence may stand.
struct Shape {
    threads: &'static [&'static str],
    end: fn(&End) -> bool,
}

impl Shape {
    fn with(&self, fence: &str, scope: &str) -> Vec<String> {
        let between = match fence {
            "" => " ".to_string(),
            fence => format!(" {fence}; "),
        };
        let threads: Vec<String> = self
            .threads
            .iter()
            .map(|t| t.replace(" % ", &between))
            .collect();
        let threads: Vec<&str> = threads.iter().map(String::as_str).collect();
        relaxed(scope, &threads)
    }

    #[track_caller]
    fn check(&self, allows: bool, fence: &str, scope: &str, place: Where) {
        let threads = self.with(fence, scope);
        let threads: Vec<&str> = threads.iter().map(String::as_str).collect();
        match allows {
            true => allowed(&threads, place, self.end),
            false => forbidden(&threads, place, self.end),
        }
    }
}

/// Message passing.
const MP: Shape = Shape {
    threads: &["W x 1; % W y 1", "R y 0; % R x 1"],
    end: |(r, _)| r[0] == 1 && r[1] == 0,
};
/// Store buffering.
const SB: Shape = Shape {
    threads: &["W x 1; % R y 0", "W y 1; % R x 1"],
    end: |(r, _)| r[0] == 0 && r[1] == 0,
};
/// Load buffering.
const LB: Shape = Shape {
    threads: &["R x 0; % W y 1", "R y 1; % W x 1"],
    end: |(r, _)| r[0] == 1 && r[1] == 1,
};
/// Independent reads of independent writes.
const IRIW: Shape = Shape {
    threads: &["W x 1", "W y 1", "R x 0; % R y 1", "R y 2; % R x 3"],
    end: |(r, _)| r[0] == 1 && r[1] == 0 && r[2] == 1 && r[3] == 0,
};
const TWO_WRITES: Shape = Shape {
    threads: &["W x 1; % W y 2", "W y 1; % W x 2"],
    end: |(_, m)| m[0] == 1 && m[1] == 1,
};
const S: Shape = Shape {
    threads: &["W x 2; % W y 1", "R y 0; % W x 1"],
    end: |(r, m)| r[0] == 1 && m[0] == 2,
};
const R: Shape = Shape {
    threads: &["W x 1; % W y 1", "W y 2; % R x 0"],
    end: |(r, m)| m[1] == 2 && r[0] == 0,
};
/// Write to read causality.
const WRC: Shape = Shape {
    threads: &["W x 1", "R x 0; % W y 1", "R y 1; % R x 2"],
    end: |(r, _)| r[0] == 1 && r[1] == 1 && r[2] == 0,
};
const ISA2: Shape = Shape {
    threads: &["W x 1; % W y 1", "R y 0; % W z 1", "R z 1; % R x 2"],
    end: |(r, _)| r[0] == 1 && r[1] == 1 && r[2] == 0,
};

#[test]
fn relaxed_accesses_alone_order_nothing() {
    for shape in [MP, SB, LB, IRIW, TWO_WRITES, S, R, WRC, ISA2] {
        shape.check(true, "", "gpu", Blocks);
        shape.check(true, "", "cta", Warps);
    }
}

#[test]
fn acquire_release_fences_order_causality_and_no_more() {
    // Axiom Causality: the fences make release and acquire patterns, which synchronize.
    for shape in [MP, LB, S, WRC, ISA2] {
        shape.check(false, "F.acq_rel.gpu", "gpu", Blocks);
        shape.check(false, "F.acq_rel.sys", "sys", Blocks);
        shape.check(false, "F.acq_rel.cta", "cta", Warps);
    }
    // No write here is read by a thread that would pass it on: nothing synchronizes.
    for shape in [SB, IRIW, TWO_WRITES, R] {
        shape.check(true, "F.acq_rel.gpu", "gpu", Blocks);
        shape.check(true, "F.acq_rel.cta", "cta", Warps);
    }
}

#[test]
fn sequentially_consistent_fences_forbid_all_of_it() {
    // Axiom Fence-SC: morally strong `fence.sc` are in one order, which agrees with causality.
    for shape in [MP, SB, LB, IRIW, TWO_WRITES, S, R, WRC, ISA2] {
        shape.check(false, "F.sc.gpu", "gpu", Blocks);
        shape.check(false, "F.sc.cta", "cta", Warps);
    }
}

#[test]
fn scopes_that_end_with_the_block_order_no_other_block() {
    // Not morally strong: the scope of the fence does not include the other thread.
    for shape in [MP, SB, IRIW, TWO_WRITES, S, R, WRC, ISA2] {
        shape.check(true, "F.acq_rel.cta", "gpu", Blocks);
        shape.check(true, "F.sc.cta", "gpu", Blocks);
    }
    // The same between warps of a block is enough.
    MP.check(false, "F.acq_rel.cta", "gpu", Warps);
    SB.check(false, "F.sc.cta", "gpu", Warps);
}

#[test]
fn release_and_acquire_by_the_accesses_themselves() {
    let stale: fn(&End) -> bool = |(r, _)| r[0] == 1 && r[1] == 0;
    let passing = |store: &str, load: &str| {
        [
            format!("W.relaxed.gpu x 1; W.{store} y 1"),
            format!("R.{load} y 0; R.relaxed.gpu x 1"),
        ]
    };
    let check = |allows: bool, store: &str, load: &str, place: Where| {
        let threads = passing(store, load);
        let threads = [threads[0].as_str(), threads[1].as_str()];
        match allows {
            true => allowed(&threads, place, stale),
            false => forbidden(&threads, place, stale),
        }
    };
    check(false, "release.gpu", "acquire.gpu", Blocks);
    check(false, "release.sys", "acquire.gpu", Blocks);
    check(false, "release.cta", "acquire.cta", Warps);
    check(true, "release.gpu", "relaxed.gpu", Blocks);
    check(true, "relaxed.gpu", "acquire.gpu", Blocks);
    check(true, "volatile", "volatile", Blocks);
    // A fence on one side and an access on the other.
    let fence = [
        "W.relaxed.gpu x 1; F.acq_rel.gpu; W.relaxed.gpu y 1",
        "R.acquire.gpu y 0; R.relaxed.gpu x 1",
    ];
    forbidden(&fence, Blocks, stale);
    let fence = [
        "W.relaxed.gpu x 1; W.release.gpu y 1",
        "R.relaxed.gpu y 0; F.acq_rel.gpu; R.relaxed.gpu x 1",
    ];
    forbidden(&fence, Blocks, stale);
    let misplaced = [
        "W.relaxed.gpu x 1; W.relaxed.gpu y 1; F.acq_rel.gpu",
        "R.acquire.gpu y 0; R.relaxed.gpu x 1",
    ];
    allowed(&misplaced, Blocks, stale);
    // Store buffering and independent reads stay allowed under release and acquire.
    let sb = [
        "W.release.gpu x 1; R.acquire.gpu y 0",
        "W.release.gpu y 1; R.acquire.gpu x 1",
    ];
    allowed(&sb, Blocks, SB.end);
    let iriw = [
        "W.release.gpu x 1",
        "W.release.gpu y 1",
        "R.acquire.gpu x 0; R.acquire.gpu y 1",
        "R.acquire.gpu y 2; R.acquire.gpu x 3",
    ];
    allowed(&iriw, Blocks, IRIW.end);
    // What a thread has seen before it releases, whoever acquires has to see.
    let wrc = [
        "W.relaxed.gpu x 1",
        "R.relaxed.gpu x 0; W.release.gpu y 1",
        "R.acquire.gpu y 1; R.relaxed.gpu x 2",
    ];
    forbidden(&wrc, Blocks, WRC.end);
    let isa2 = [
        "W.relaxed.gpu x 1; W.release.gpu y 1",
        "R.acquire.gpu y 0; W.release.gpu z 1",
        "R.acquire.gpu z 1; R.relaxed.gpu x 2",
    ];
    forbidden(&isa2, Blocks, ISA2.end);
}

#[test]
fn a_location_by_itself_is_coherent() {
    // Axiom Sequential Consistency per Location.
    forbidden(
        &["W.relaxed.gpu x 1", "R.relaxed.gpu x 0; R.relaxed.gpu x 1"],
        Blocks,
        |(r, _)| r[0] == 1 && r[1] == 0,
    );
    forbidden(
        &["W.relaxed.gpu x 1; R.relaxed.gpu x 0", "W.relaxed.gpu x 2"],
        Blocks,
        |(r, _)| r[0] == 0,
    );
    forbidden(
        &["W.relaxed.gpu x 1; W.relaxed.gpu x 2"],
        Blocks,
        |(_, m)| m[0] == 1,
    );
    forbidden(
        &["R.relaxed.gpu x 0; W.relaxed.gpu x 1", "R.relaxed.gpu x 1"],
        Blocks,
        |(r, _)| r[0] == 1,
    );
    let twice = [
        "W.relaxed.gpu x 1",
        "W.relaxed.gpu x 2",
        "R.relaxed.gpu x 0; R.relaxed.gpu x 1",
        "R.relaxed.gpu x 2; R.relaxed.gpu x 3",
    ];
    forbidden(&twice, Blocks, |(r, _)| {
        r[0] == 1 && r[1] == 2 && r[2] == 2 && r[3] == 1
    });
    allowed(&twice, Blocks, |(r, _)| r[0] == 1 && r[1] == 2);
    allowed(&twice, Blocks, |(r, _)| r[0] == 2 && r[1] == 1);
}

#[test]
fn atomics_are_atomic_and_pass_releases_on() {
    // Axiom Atomicity.
    let both = ["A.relaxed.gpu.add.u32 x 1 0", "A.relaxed.gpu.add.u32 x 1 1"];
    forbidden(&both, Blocks, |(r, m)| r[0] == r[1] || m[0] != 2);
    let store = ["A.relaxed.gpu.add.u32 x 1 0", "W.relaxed.gpu x 5"];
    forbidden(&store, Blocks, |(r, m)| {
        r[0] == 0 && m[0] == 1 || r[0] == 5 && m[0] != 6
    });
    allowed(&store, Blocks, |(r, m)| r[0] == 0 && m[0] == 5);
    // Observation passes through an atomic operation, and not through a store.
    let through = |middle: &'static str| {
        [
            "W.relaxed.gpu x 1; W.release.gpu y 1",
            middle,
            "R.acquire.gpu y 1; R.relaxed.gpu x 2",
        ]
    };
    forbidden(&through("A.relaxed.gpu.add.u32 y 1 0"), Blocks, |(r, _)| {
        r[1] == 2 && r[2] == 0
    });
    allowed(
        &through("R.relaxed.gpu y 0; W.relaxed.gpu y 2"),
        Blocks,
        |(r, _)| r[0] == 1 && r[1] == 2 && r[2] == 0,
    );
    // Store buffering by atomics.
    let exchange = [
        "A.acq_rel.gpu.exch.b32 x 1 2; R.relaxed.gpu y 0",
        "A.acq_rel.gpu.exch.b32 y 1 3; R.relaxed.gpu x 1",
    ];
    allowed(&exchange, Blocks, SB.end);
}

#[test]
fn nothing_comes_out_of_thin_air() {
    // Axiom No-Thin-Air: each store waits for the load whose value it writes.
    forbidden(
        &["R.relaxed.gpu x 0; C y 0", "R.relaxed.gpu y 1; C x 1"],
        Blocks,
        |(r, _)| r[0] != 0 || r[1] != 0,
    );
    let half = [
        "R.relaxed.gpu x 0; C y 0",
        "R.relaxed.gpu y 1; W.relaxed.gpu x 1",
    ];
    allowed(&half, Blocks, |(r, _)| r[0] == 1 && r[1] == 1);
}
