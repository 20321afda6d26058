//! Bits, shifts, logic and permutation.
use super::*;

#[test]
fn counting_and_finding() {
    for (bits, r) in [(32, "%r"), (64, "%rd")] {
        let samples = [corners(bits), (0..bits).map(|k| 1 << k).collect()].concat();
        let sources = vec![samples];
        let mask = u64::MAX >> (64 - bits);
        check(&format!("popc.b{bits} %r9, {r}1;"), &sources, |s| {
            s[0].count_ones().into()
        });
        let zeros = |x: u64| x.leading_zeros() - (64 - bits);
        check(&format!("clz.b{bits} %r9, {r}1;"), &sources, |s| {
            zeros(s[0]).into()
        });
        check(&format!("brev.b{bits} {r}0, {r}1;"), &sources, |s| {
            s[0].reverse_bits() >> (64 - bits)
        });
        for (ty, is_signed) in [("u", false), ("s", true)] {
            let negative = |x: u64| is_signed && x >> (bits - 1) != 0;
            let folded = |x: u64| if negative(x) { !x & mask } else { x };
            check(
                &format!("bfind.{ty}{bits} %r9, {r}1;"),
                &sources,
                |s| match folded(s[0]) {
                    0 => 0xffff_ffff,
                    x => x.ilog2().into(),
                },
            );
            check(
                &format!("bfind.shiftamt.{ty}{bits} %r9, {r}1;"),
                &sources,
                |s| match folded(s[0]) {
                    0 => 0xffff_ffff,
                    x => (bits - 1 - x.ilog2()).into(),
                },
            );
        }
    }
}

#[test]
fn shifts_clamp_their_amounts() {
    let amounts: Vec<u64> = (0..70).chain([127, 255, 256, 0xffff_ffff]).collect();
    for bits in [16, 32, 64] {
        let r = register(bits);
        let mask = u64::MAX >> (64 - bits);
        let sources = pairs(&corners(bits), &amounts);
        check(&format!("shl.b{bits} {r}0, {r}1, %r22;"), &sources, |s| {
            if s[1] < u64::from(bits) {
                s[0] << s[1] & mask
            } else {
                0
            }
        });
        for ty in ["b", "u"] {
            check(
                &format!("shr.{ty}{bits} {r}0, {r}1, %r22;"),
                &sources,
                |s| {
                    if s[1] < u64::from(bits) {
                        s[0] >> s[1]
                    } else {
                        0
                    }
                },
            );
        }
        check(&format!("shr.s{bits} {r}0, {r}1, %r22;"), &sources, |s| {
            (signed(s[0], bits) >> s[1].min(127)) as u64 & mask
        });
    }
}

#[test]
fn funnel_shifts() {
    let samples = corners(32);
    let amounts: Vec<u64> = (0..samples.len() as u64 * 3).map(|n| n * 5 % 70).collect();
    let sources = triples(&samples, &samples, &amounts);
    for (mode, wrap) in [("wrap", true), ("clamp", false)] {
        let by = |c: u64| if wrap { c & 31 } else { c.min(32) };
        check(
            &format!("shf.l.{mode}.b32 %r0, %r1, %r2, %r3;"),
            &sources,
            |s| {
                let both = u128::from(s[1] << 32 | s[0]);
                ((both << by(s[2])) >> 32) as u64 & 0xffff_ffff
            },
        );
        check(
            &format!("shf.r.{mode}.b32 %r0, %r1, %r2, %r3;"),
            &sources,
            |s| (s[1] << 32 | s[0]) >> by(s[2]) & 0xffff_ffff,
        );
    }
}

#[test]
fn fields() {
    let positions: Vec<u64> = (0..34).chain([62, 63, 64, 255, 256, 259]).collect();
    for (bits, r) in [(32u64, "%r"), (64, "%rd")] {
        let samples = corners(bits as u32);
        let sources = triples(&samples, &positions, &positions);
        let field = |a: u64, b: u64, c: u64, is_signed: bool| {
            let (position, length) = (b & 255, c & 255);
            let bit = |k: u64| a >> k & 1;
            let sign = if is_signed && length != 0 {
                bit((position + length - 1).min(bits - 1))
            } else {
                0
            };
            (0..bits).fold(0, |d, k| {
                let inside = k < length && position + k < bits;
                d | (if inside { bit(position + k) } else { sign }) << k
            })
        };
        for (ty, is_signed) in [("u", false), ("s", true)] {
            let text = format!("bfe.{ty}{bits} {r}0, {r}1, %r22, %r23;");
            check(&text, &sources, |s| field(s[0], s[1], s[2], is_signed));
        }
        let mut columns = pairs(&samples, &samples);
        for step in [3, 5] {
            let rows = 0..columns[0].len();
            columns.push(
                rows.map(|row| positions[row * step % positions.len()])
                    .collect(),
            );
        }
        check(
            &format!("bfi.b{bits} {r}0, {r}1, {r}2, %r23, %r24;"),
            &columns,
            |s| {
                let (position, length) = (s[2] & 255, s[3] & 255);
                (0..length)
                    .take_while(|k| position + k < bits)
                    .fold(s[1], |d, k| {
                        d & !(1 << (position + k)) | (s[0] >> k & 1) << (position + k)
                    })
            },
        );
    }
}

#[test]
fn logic() {
    for bits in [16, 32, 64] {
        let r = register(bits);
        let mask = u64::MAX >> (64 - bits);
        let sources = pairs(&corners(bits), &corners(bits));
        check(&format!("and.b{bits} {r}0, {r}1, {r}2;"), &sources, |s| {
            s[0] & s[1]
        });
        check(&format!("or.b{bits} {r}0, {r}1, {r}2;"), &sources, |s| {
            s[0] | s[1]
        });
        check(&format!("xor.b{bits} {r}0, {r}1, {r}2;"), &sources, |s| {
            s[0] ^ s[1]
        });
        check(&format!("not.b{bits} {r}0, {r}1;"), &sources[..1], |s| {
            !s[0] & mask
        });
        check(&format!("cnot.b{bits} {r}0, {r}1;"), &sources[..1], |s| {
            u64::from(s[0] == 0)
        });
    }
    let truth = pairs(&[0, 1], &[0, 1]);
    check("and.pred %p0, %p1, %p2;", &truth, |s| s[0] & s[1]);
    check("or.pred %p0, %p1, !%p2;", &truth, |s| s[0] | (1 - s[1]));
    check("xor.pred %p0, %p1, %p2;", &truth, |s| s[0] ^ s[1]);
    check("not.pred %p0, %p1;", &truth[..1], |s| 1 - s[0]);
}

#[test]
fn all_tables_of_lop3() {
    let (a, b, c) = (0xf0f0_00ff, 0xcccc_0f0f, 0xaaaa_3355);
    let mut text = String::new();
    for table in 0..=255u64 {
        let by_bits = (0..32).fold(0, |d, k| {
            let index = (a >> k & 1) << 2 | (b >> k & 1) << 1 | (c >> k & 1);
            d | (table >> index & 1) << k
        });
        // One kernel for all: a table that fails leaves its mark in the sum.
        text += &format!(
            "lop3.b32 %r5, %r1, %r2, %r3, {table}; xor.b32 %r5, %r5, {by_bits}; or.b32 %r0, %r0, %r5;\n"
        );
    }
    let text = format!("mov.b32 %r0, 0; mov.b32 %r5, 0;\n{text}");
    assert_eq!(once(&text, &[a, b, c]), 0);
    for (q, d) in [(0u64, 0u64), (0, 5), (1, 0), (1, 5)] {
        let or = run(
            "lop3.or.b32 %r0|%p0, %r1, %r2, %r3, 0xc0, %p4;",
            &[vec![d], vec![d], vec![0], vec![q]],
        );
        assert_eq!((or[0][0], or[1][0]), (d, u64::from(d != 0) | q));
        let and = run(
            "lop3.and.b32 %r0|%p0, %r1, %r2, %r3, 0xc0, !%p4;",
            &[vec![d], vec![d], vec![0], vec![q]],
        );
        assert_eq!((and[0][0], and[1][0]), (d, u64::from(d != 0) & (1 - q)));
    }
    assert!(!accepts("lop3.b32 %r0, %r1, %r2, %r3, 256;"));
}

#[test]
fn all_modes_of_prmt() {
    let (a, b) = (0x8372_6150u64, 0xc736_a514u64);
    let bytes: Vec<u64> = (0..8).map(|k| (b << 32 | a) >> (8 * k) & 0xff).collect();
    let selectors: Vec<u64> = (0..0x1_0000).collect();
    let columns = vec![
        vec![a; selectors.len()],
        vec![b; selectors.len()],
        selectors,
    ];
    check("prmt.b32 %r0, %r1, %r2, %r3;", &columns, |s| {
        (0..4).fold(0, |d, k| {
            let nibble = s[2] >> (4 * k) & 15;
            let byte = bytes[nibble as usize & 7];
            let signs = if byte & 0x80 != 0 { 0xff } else { 0 };
            d | (if nibble & 8 != 0 { signs } else { byte }) << (8 * k)
        })
    });
    // Bytes of the result from the lowest, per value of the selector's two bits.
    let modes: [(&str, [[usize; 4]; 4]); 6] = [
        (
            "f4e",
            [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
        ),
        (
            "b4e",
            [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
        ),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        (
            "ecl",
            [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
        ),
        (
            "ecr",
            [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
        ),
        (
            "rc16",
            [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
        ),
    ];
    for (mode, table) in modes {
        for (c, picks) in table.iter().enumerate() {
            let expected = picks.iter().rev().fold(0, |d, pick| d << 8 | bytes[*pick]);
            let text = format!("prmt.b32.{mode} %r0, %r1, %r2, %r3;");
            assert_eq!(
                once(&text, &[a, b, c as u64 | 0xfffc]),
                expected,
                "{mode} {c}"
            );
        }
    }
}

#[test]
fn masks_and_extensions() {
    let lengths: Vec<u64> = (0..34).chain([64, 0xffff_ffff]).collect();
    let sources = pairs(&lengths, &lengths);
    let ones = |n: u64| if n >= 32 { 0xffff_ffff } else { (1 << n) - 1 };
    check("bmsk.clamp.b32 %r0, %r1, %r2;", &sources, |s| {
        if s[0] >= 32 {
            0
        } else {
            ones(s[1]) << s[0] & 0xffff_ffff
        }
    });
    check("bmsk.wrap.b32 %r0, %r1, %r2;", &sources, |s| {
        ones(s[1] & 31) << (s[0] & 31) & 0xffff_ffff
    });
    let sources = pairs(&corners(32), &lengths);
    check("szext.clamp.u32 %r0, %r1, %r2;", &sources, |s| {
        s[0] & ones(s[1])
    });
    check("szext.clamp.s32 %r0, %r1, %r2;", &sources, |s| match s[1] {
        0 => 0,
        n => signed(s[0], n.min(32) as u32) as u64 & 0xffff_ffff,
    });
    assert_eq!(once("fns.b32 %r0, %r1, %r2, %r3;", &[0b1001_0110, 0, 3]), 4);
}
