//! Instructions that change how fast a program is, and nothing else.

use super::prelude::*;

const POLICY: &str = "Data Movement and Conversion Instructions: createpolicy";
const PRIMARY: Mod = one(
    "primary",
    &[
        "L2::evict_last",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_unchanged",
    ],
);
const SECONDARY: Mod = maybe("secondary", &["L2::evict_first", "L2::evict_unchanged"]);

/// Gives the only policy there is.
fn policy(_: &mut Form<'_>) -> Option<ExecFn> {
    Some(exec!(
        cold | w,
        i,
        m | {
            w.put(i.d[0], m, u32::MAX, [1u64; 32]);
            Ok(Flow::Next)
        }
    ))
}

fn nothing(_: &mut Form<'_>) -> Option<ExecFn> {
    Some(exec!(cold | _w, _i, _m | Ok(Flow::Next)))
}

pub(super) static ROWS: &[Row] = &[
    row("createpolicy.fractional", POLICY, Class::Move)
        .mods(&[PRIMARY, SECONDARY, types(&[B64])])
        .args(&[D(T0), Opt(&S(Is(F32)))])
        .since(80, 7, 4)
        .exec(policy),
    row("createpolicy.range", POLICY, Class::Move)
        .mods(&[
            maybe("space", &["global"]),
            PRIMARY,
            SECONDARY,
            types(&[B64]),
        ])
        .args(&[D(T0), A, S(Is(B32)), S(Is(B32))])
        .since(80, 7, 4)
        .exec(policy),
    row("createpolicy.cvt.L2", POLICY, Class::Move)
        .mods(&[types(&[B64])])
        .args(&[D(T0), S(Is(B64))])
        .since(80, 7, 4)
        .exec(policy),
    row(
        "prefetch",
        "Data Movement and Conversion Instructions: prefetch",
        Class::Memory,
    )
    .mods(&[
        maybe("space", &["global", "local"]),
        one("level", &["L1", "L2", "L2::evict_last", "L2::evict_normal"]),
    ])
    .args(&[A])
    .exec(nothing),
    row(
        "prefetchu",
        "Data Movement and Conversion Instructions: prefetchu",
        Class::Memory,
    )
    .mods(&[need("L1")])
    .args(&[A])
    .exec(nothing),
    row(
        "applypriority",
        "Data Movement and Conversion Instructions: applypriority",
        Class::Memory,
    )
    .mods(&[maybe("space", &["global"]), need("L2::evict_normal")])
    .args(&[A, I])
    .since(80, 7, 4)
    .exec(|f| (f.imm.get(1) == Some(&128)).then(|| nothing(f)).flatten()),
    row(
        "pmevent",
        "Miscellaneous Instructions: pmevent",
        Class::Control,
    )
    .mods(&[flag("mask")])
    .args(&[I])
    .exec(nothing),
];
