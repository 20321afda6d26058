//! Branches, calls of what the system provides, and ends.

use super::prelude::*;

pub(super) static ROWS: &[Row] = &[
    row("bra", "Control Flow Instructions: bra", Class::Control)
        .mods(&[flag("uni")])
        .args(&[Label])
        .exec(|_| Some(exec!(cold | _w, _i, _m | Ok(Flow::Jump)))),
    // `brx.idx`, whose table of labels the binder has taken off.
    row(
        "brx idx",
        "Control Flow Instructions: brx.idx",
        Class::Control,
    )
    .mods(&[flag("uni")])
    .args(&[S(Is(U32))])
    .exec(|_| Some(exec!(cold | w, i, m | indexed(w, i, m)))),
    row("exit", "Control Flow Instructions: exit", Class::Control)
        .exec(|_| Some(exec!(cold | _w, _i, _m | Ok(Flow::Exit)))),
    row("ret", "Control Flow Instructions: ret", Class::Control)
        .mods(&[flag("uni")])
        .exec(|_| Some(exec!(cold | _w, _i, _m | Ok(Flow::Exit)))),
    row("trap", "Miscellaneous Instructions: trap", Class::Control)
        .exec(|_| Some(exec!(cold | w, _i, m | Err(w.fault(Kind::Trap, m))))),
    row("brkpt", "Miscellaneous Instructions: brkpt", Class::Control)
        .exec(|_| Some(exec!(cold | _w, _i, _m | Ok(Flow::Next)))),
    row(
        "nanosleep",
        "Miscellaneous Instructions: nanosleep",
        Class::Control,
    )
    .mods(&[types(&[U32])])
    .args(&[S(T0)])
    .since(70, 6, 3)
    .exec(|_| Some(exec!(cold | _w, _i, _m | Ok(Flow::Next)))),
    // A call of `__assertfail`; operands are the addresses of its arguments in local memory.
    row(" assert", "System calls: __assertfail", Class::Control)
        .args(&[A, Opt(&A), Opt(&A)])
        .exec(|_| Some(exec!(cold | w, i, m | assertion(w, i, m)))),
];

/// The row behind reads of `%clock` and its like.
pub(crate) static READ_CLOCK: Row = row("mov", "Special Registers: %clock", Class::Move);

/// Reads a changing special register, by its number in `inst.aux`.
pub(crate) fn read_clock() -> ExecFn {
    exec!(
        cold | w,
        i,
        m | {
            let clock = w.clock();
            match i.aux {
                0 | 4 => w.put(i.d[0], m, u32::MAX, [clock as u32; 32]),
                1 | 5 => w.put(i.d[0], m, u32::MAX, [(clock >> 32) as u32; 32]),
                _ => w.put(i.d[0], m, u32::MAX, [clock; 32]),
            }
            Ok(Flow::Next)
        }
    )
}

/// The opcode behind a function that the system provides.
pub(crate) fn builtin(name: &str) -> Option<&'static str> {
    match name {
        "__assertfail" => Some(" assert"),
        "vprintf" => Some(" print"),
        _ => None,
    }
}

fn indexed(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    w.need(m, w.valid::<u32>(i.s[0]), "the index of a branch")?;
    let index = w.get::<u32>(i.s[0]);
    let table = w
        .launch
        .program
        .tables
        .get(i.aux as usize)
        .map_or(&[][..], Vec::as_slice);
    for lane in (0..32).filter(|lane| m >> lane & 1 != 0) {
        match table.get(index[lane] as usize) {
            Some(target) => w.targets[lane] = *target,
            None => {
                let text = format!(
                    "index {} of a branch to {} labels",
                    index[lane],
                    table.len()
                );
                return Err(w.fault(Kind::BadOperand(text), 1 << lane));
            }
        }
    }
    Ok(Flow::Scatter)
}

fn assertion(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let lane = m.trailing_zeros() as usize % 32;
    let argument = |k: usize| {
        let place = w.get::<u64>(i.s[k])[lane].wrapping_add_signed(i.imm[k]);
        w.local_pointer(lane, place as i64)
    };
    let text_of = |k: usize| argument(k).and_then(|at| w.launch.text(at));
    let text = text_of(0).unwrap_or_default();
    let text = match (i.ns > 1).then(|| text_of(1)).flatten() {
        Some(file) if i.ns > 2 => {
            let line = argument(2).unwrap_or(0) as u32;
            format!("{text} ({file}:{line})")
        }
        Some(file) => format!("{text} ({file})"),
        None => text,
    };
    Err(w.fault(Kind::Assert(text), m))
}
