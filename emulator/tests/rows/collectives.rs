//! Instructions that lanes execute together: what each form makes of numbers that no two lanes share, for all lanes
//! and for some.

use super::common::{Shape, run};

/// Numbers of lanes: a third of them with the highest bit set.
fn number(lane: u32) -> u32 {
    (lane + 1).wrapping_mul(0x9e37_79b9) ^ (0x8000_0000 * u32::from(lane.is_multiple_of(3)))
}

/// Lanes that take part: all, some, one.
const MASKS: [u32; 4] = [!0, 0xffff_0f0e, 0x8000_0001, 0x100];

/// Runs a body for the lanes of a mask. `%r2` is the lane's number; what it leaves in `%r9` is returned.
fn results(mask: u32, body: &str) -> Vec<Option<u32>> {
    let numbers: Vec<u8> = (0..32)
        .flat_map(|lane| number(lane).to_le_bytes())
        .collect();
    let text = format!(
        "mov.u32 %r1, %laneid; shl.b32 %r3, %r1, 2; cvt.u64.u32 %d1, %r3; add.u64 %d2, %in, %d1; add.u64 %d1, %out, %d1;
         ld.global.u32 %r2, [%d2]; st.global.u32 [%d1], 0; mov.u32 %r4, 1; shl.b32 %r4, %r4, %r1; and.b32 %r4, %r4, {mask};
         setp.eq.u32 %p9, %r4, 0; @%p9 bra E; {body} st.global.u32 [%d1], %r9; E:"
    );
    let words = run(&text, &Shape::threads(32), &numbers).words();
    let taken = |lane: usize| mask >> lane & 1 != 0;
    let result = |(lane, word): (usize, &u32)| taken(lane).then_some(*word);
    words.iter().enumerate().map(result).collect()
}

fn check(mask: u32, body: &str, expected: impl Fn(u32) -> u32) {
    let expected = |lane: u32| (mask >> lane & 1 != 0).then(|| expected(lane));
    let expected: Vec<_> = (0..32).map(expected).collect();
    assert_eq!(results(mask, body), expected, "{mask:#x}: {body}");
}

fn of(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

#[test]
fn forms_of_redux() {
    type Reduce = fn(u32, u32) -> u32;
    let forms: [(&str, Reduce); 9] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.u32", u32::max),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for mask in MASKS {
        for (form, reduce) in forms {
            // Neither all bits of all lanes nor none.
            let value = |lane: u32| match form {
                "and.b32" => number(lane) | 0x0f0f,
                "or.b32" => number(lane) & 0xf0f0_00f0,
                _ => number(lane),
            };
            let prepare = match form {
                "and.b32" => "or.b32 %r2, %r2, 0x0f0f;",
                "or.b32" => "and.b32 %r2, %r2, 0xf0f000f0;",
                _ => "",
            };
            let all = of(mask).map(value).reduce(reduce).unwrap();
            let body = format!("{prepare} redux.sync.{form} %r9, %r2, {mask};");
            check(mask, &body, |_| all);
        }
    }
}

#[test]
fn forms_of_match() {
    for mask in MASKS {
        let alike = |lane: u32| lane % 5;
        let body = format!("rem.u32 %r2, %r1, 5; match.any.sync.b32 %r9, %r2, {mask};");
        let expected = |lane| {
            of(mask)
                .filter(|other| alike(*other) == alike(lane))
                .fold(0, |m, l| m | 1 << l)
        };
        check(mask, &body, expected);
        let body = format!(
            "rem.u32 %r2, %r1, 5; cvt.u64.u32 %d5, %r2; shl.b64 %d5, %d5, 40; match.any.sync.b64 %r9, %d5, {mask};"
        );
        check(mask, &body, expected);
        // Of lanes that hold the same, and of those that do not.
        for (value, same) in [("mov.u32 %r2, 7;", true), ("", false)] {
            let same = same || mask.count_ones() == 1;
            for (wide, register) in [
                ("", "%r2"),
                ("cvt.u64.u32 %d5, %r2; shl.b64 %d5, %d5, 32;", "%d5"),
            ] {
                let bits = if wide.is_empty() { 32 } else { 64 };
                let all = format!("{value} {wide} match.all.sync.b{bits}");
                let body = format!("{all} %r9|%p1, {register}, {mask}; @!%p1 xor.b32 %r9, %r9, 3;");
                check(mask, &body, |_| if same { mask } else { 3 });
                let body = format!("{all} %r9, {register}, {mask};");
                check(mask, &body, |_| if same { mask } else { 0 });
            }
        }
    }
}

#[test]
fn forms_of_vote() {
    for mask in MASKS {
        for least in [0, 9, 40] {
            let yes = of(mask)
                .filter(|lane| *lane >= least)
                .fold(0, |m, l| m | 1 << l);
            let (all, any) = (yes == mask, yes != 0);
            for (negated, yes, all, any) in [("", yes, all, any), ("!", mask & !yes, !any, !all)] {
                let vote = |form: &str, to: &str| {
                    format!(
                        "setp.ge.u32 %p1, %r1, {least}; vote.sync.{form} {to}, {negated}%p1, {mask};"
                    )
                };
                check(mask, &vote("ballot.b32", "%r9"), |_| yes);
                for (form, result) in [("all", all), ("any", any), ("uni", all || !any)] {
                    let body = vote(&format!("{form}.pred"), "%p2");
                    let body = format!("{body} selp.u32 %r9, 5, 6, %p2;");
                    check(mask, &body, |_| if result { 5 } else { 6 });
                }
            }
        }
    }
}

/// Lanes that are somewhere else are not in it; which of those that are at the same place are is left open, but for the
/// lane itself.
#[test]
fn forms_of_activemask() {
    for mask in MASKS {
        for (lane, active) in results(mask, "activemask.b32 %r9;").into_iter().enumerate() {
            let Some(active) = active else { continue };
            assert!(
                active >> lane & 1 != 0 && active & !mask == 0,
                "{active:#x} of {mask:#x} in {lane}"
            );
        }
    }
}

#[test]
fn forms_of_shfl() {
    // Segments of 32, 16 and 8 lanes, clamped.
    for (log, segment) in [(0x00, 32), (0x10, 16), (0x18, 8)] {
        for step in [0, 1, 3, 9] {
            for (mode, clamp) in [("up", 0), ("down", 0x1f), ("bfly", 0x1f), ("idx", 0x1f)] {
                let from = |lane: u32| {
                    let (first, last) = (
                        lane / segment * segment,
                        lane / segment * segment + segment - 1,
                    );
                    let (other, inside) = match mode {
                        "up" => (lane.wrapping_sub(step), lane >= first + step),
                        "down" => (lane + step, lane + step <= last),
                        "bfly" => (lane ^ step, lane ^ step <= last),
                        _ => (first | step & (segment - 1), true),
                    };
                    if inside { (other, true) } else { (lane, false) }
                };
                let control = log << 8 | clamp;
                let body = format!(
                    "shfl.sync.{mode}.b32 %r9|%p1, %r2, {step}, {control}, -1; @!%p1 not.b32 %r9, %r9;"
                );
                check(!0, &body, |lane| match from(lane) {
                    (other, true) => number(other),
                    (other, false) => !number(other),
                });
                let body = format!("shfl.sync.{mode}.b32 %r9, %r2, {step}, {control}, -1;");
                check(!0, &body, |lane| number(from(lane).0));
            }
        }
    }
}
