//! Finds the row that an instruction is written for.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Arg, Count, FAMILIES, Mod, Row};
use crate::ast::{Instruction, Operand, Type};

/// Why no row fits: the first token (or operand) that no row takes, and what would have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The token, without its dot.
    pub token: String,
    /// What is wrong with it.
    pub message: String,
    /// What could have stood there.
    pub alternatives: Vec<String>,
}

/// A row, and the instruction's modifiers sorted by it.
#[derive(Clone)]
pub(crate) struct Match {
    pub row: &'static Row,
    pub types: Vec<Type>,
    pub chosen: Vec<Option<&'static str>>,
}

static BY_OPCODE: LazyLock<HashMap<&'static str, Vec<&'static Row>>> = LazyLock::new(|| {
    let mut map: HashMap<&'static str, Vec<&'static Row>> = HashMap::new();
    for row in FAMILIES.iter().copied().flatten() {
        let first = row.opcode.split('.').next().unwrap_or(row.opcode);
        map.entry(first).or_default().push(row);
    }
    map
});

/// The rows that fit this instruction, the one meant first; several can remain that differ in what
/// their operands are, which the binder tells apart.
pub(crate) fn find(inst: &Instruction) -> Result<Vec<Match>, Mismatch> {
    let mut all = Vec::new();
    let opcode = inst.opcode.first().map_or("", String::as_str);
    let Some(rows) = BY_OPCODE.get(opcode) else {
        let mut alternatives: Vec<String> = BY_OPCODE
            .keys()
            .filter(|known| known.chars().next() == opcode.chars().next())
            .map(ToString::to_string)
            .collect();
        alternatives.sort();
        return Err(Mismatch {
            token: opcode.to_string(),
            message: "unknown or unsupported opcode".to_string(),
            alternatives,
        });
    };
    let mut furthest: Option<(usize, Mismatch)> = None;
    for row in rows {
        match fits(row, inst) {
            Ok(found) => all.push(found),
            Err((progress, mismatch)) => match &mut furthest {
                Some((best, kept)) if *best == progress && kept.token == mismatch.token => {
                    kept.alternatives.extend(mismatch.alternatives);
                    kept.alternatives.sort();
                    kept.alternatives.dedup();
                }
                Some((best, _)) if *best >= progress => {}
                _ => furthest = Some((progress, mismatch)),
            },
        }
    }
    if !all.is_empty() {
        return Ok(all);
    }
    Err(furthest.map_or_else(
        || Mismatch {
            token: opcode.to_string(),
            message: "unknown opcode".into(),
            alternatives: vec![],
        },
        |(_, mismatch)| mismatch,
    ))
}

/// Matches one row, or says how far it came (in tokens) and what stopped it.
fn fits(row: &'static Row, inst: &Instruction) -> Result<Match, (usize, Mismatch)> {
    let mut position = 0;
    for piece in row.opcode.split('.') {
        match inst.opcode.get(position) {
            Some(token) if token == piece => position += 1,
            other => {
                return Err((
                    position,
                    wrong(other.map_or("", String::as_str), vec![format!(".{piece}")]),
                ));
            }
        }
    }
    let mut chosen: Vec<Option<&'static str>> = vec![None; row.mods.len()];
    let mut types = Vec::new();
    for (at, token) in inst.opcode.iter().enumerate().skip(position) {
        if let Some((index, token)) = find_token(row.mods, &chosen, token) {
            chosen[index] = Some(token);
        } else if !take_type(row.mods, token, &mut types) {
            return Err((
                at,
                wrong(token, open_choices(row.mods, &chosen, types.len())),
            ));
        }
    }
    let missing = row
        .mods
        .iter()
        .zip(&chosen)
        .any(|(spec, chosen)| matches!(spec, Mod::Need(_) | Mod::One(..)) && chosen.is_none());
    if missing || types.len() < type_groups(row.mods).count() {
        let alternatives = open_choices(row.mods, &chosen, types.len());
        let token = inst.opcode.join(".");
        let message = "a modifier is missing".to_string();
        return Err((
            inst.opcode.len(),
            Mismatch {
                token,
                message,
                alternatives,
            },
        ));
    }
    let found = Match { row, types, chosen };
    if let Err(message) = operands_fit(&found, &inst.operands) {
        let token = inst.opcode.join(".");
        return Err((
            inst.opcode.len() + 1,
            Mismatch {
                token,
                message,
                alternatives: vec![],
            },
        ));
    }
    Ok(found)
}

fn wrong(token: &str, alternatives: Vec<String>) -> Mismatch {
    let message = if token.is_empty() {
        "the opcode is incomplete"
    } else {
        "unknown or unsupported modifier"
    };
    Mismatch {
        token: token.to_string(),
        message: message.to_string(),
        alternatives,
    }
}

/// The group that takes this token and has none yet.
fn find_token(
    mods: &'static [Mod],
    chosen: &[Option<&'static str>],
    token: &str,
) -> Option<(usize, &'static str)> {
    mods.iter()
        .enumerate()
        .filter(|(index, _)| chosen[*index].is_none())
        .find_map(|(index, spec)| {
            let found = match spec {
                Mod::Flag(name) | Mod::Need(name) => (*name == token).then_some(*name),
                Mod::Maybe(_, names) | Mod::One(_, names) => {
                    names.iter().find(|name| **name == token).copied()
                }
                Mod::Types(_) => None,
            };
            found.map(|name| (index, name))
        })
}

fn type_groups(mods: &'static [Mod]) -> impl Iterator<Item = &'static [Type]> {
    mods.iter().filter_map(|spec| match spec {
        Mod::Types(types) => Some(*types),
        _ => None,
    })
}

fn take_type(mods: &'static [Mod], token: &str, types: &mut Vec<Type>) -> bool {
    match (type_groups(mods).nth(types.len()), Type::from_token(token)) {
        (Some(allowed), Some(ty)) if allowed.contains(&ty) => {
            types.push(ty);
            true
        }
        _ => false,
    }
}

/// What could still be written.
fn open_choices(
    mods: &'static [Mod],
    chosen: &[Option<&'static str>],
    types: usize,
) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    for (spec, chosen) in mods.iter().zip(chosen) {
        if chosen.is_some() {
            continue;
        }
        match spec {
            Mod::Flag(name) | Mod::Need(name) => open.push(format!(".{name}")),
            Mod::Maybe(_, names) | Mod::One(_, names) => {
                open.extend(names.iter().map(|name| format!(".{name}")))
            }
            Mod::Types(_) => {}
        }
    }
    if let Some(next) = type_groups(mods).nth(types) {
        open.extend(next.iter().map(|ty| format!(".{}", ty.token())));
    }
    open
}

/// Length of a vector operand, or `None` if it is to be a bare operand.
pub(crate) fn count(found: &Match, count: Count) -> Option<usize> {
    match count {
        Count::Fixed(n) => Some(usize::from(n)),
        Count::Group(group) => {
            found
                .row
                .mods
                .iter()
                .zip(&found.chosen)
                .find_map(|(spec, chosen)| match spec {
                    Mod::Maybe(name, _) | Mod::One(name, _) if *name == group => {
                        chosen.and_then(|token| token.trim_start_matches(['v', 'x']).parse().ok())
                    }
                    _ => None,
                })
        }
    }
}

/// Whether number and shape of the operands are the row's.
fn operands_fit(found: &Match, operands: &[Operand]) -> Result<(), String> {
    let args = found.row.args;
    let least = args
        .iter()
        .filter(|arg| !matches!(arg, Arg::Opt(_)))
        .count();
    if operands.len() < least || operands.len() > args.len() {
        let range = if least == args.len() {
            least.to_string()
        } else {
            format!("{least} to {}", args.len())
        };
        return Err(format!("takes {range} operands, got {}", operands.len()));
    }
    for (index, (arg, operand)) in args.iter().zip(operands).enumerate() {
        let arg = match arg {
            &Arg::Opt(inner) => inner,
            arg => arg,
        };
        if let Some(expected) = shape_error(found, *arg, operand) {
            return Err(format!("operand {} has to be {expected}", index + 1));
        }
    }
    Ok(())
}

/// What the operand should have been, if it is not.
fn shape_error(found: &Match, arg: Arg, operand: &Operand) -> Option<String> {
    let plain = |operand: &Operand| {
        matches!(
            operand,
            Operand::Name { .. }
                | Operand::Int(_)
                | Operand::Float { .. }
                | Operand::NamePlus { .. }
        )
    };
    let destination = |operand: &Operand| {
        matches!(
            operand,
            Operand::Name { negated: false, .. } | Operand::Sink
        )
    };
    match arg {
        Arg::D(_) | Arg::DW(_) => (!destination(operand)).then(|| "a register".into()),
        Arg::Pair(..) => match operand {
            Operand::Pair(a, b) if destination(a) && destination(b) => None,
            operand if destination(operand) => None,
            _ => Some("a register or two as d|p".into()),
        },
        Arg::S(_) | Arg::SW(_) => (!plain(operand)).then(|| "a register or a constant".into()),
        Arg::DV(_, n) | Arg::SV(_, n) => {
            let is_destination = matches!(arg, Arg::DV(..));
            let element = |o: &Operand| {
                if is_destination {
                    destination(o)
                } else {
                    plain(o)
                }
            };
            match (count(found, n), operand) {
                (None | Some(1), operand) if element(operand) => None,
                (n, Operand::Vector(items))
                    if items.len() == n.unwrap_or(1) && items.iter().all(element) =>
                {
                    None
                }
                (n, _) => Some(format!("a vector of {}", n.unwrap_or(1))),
            }
        }
        Arg::A => {
            (!matches!(operand, Operand::Address { .. })).then(|| "an address in brackets".into())
        }
        Arg::I => (!matches!(operand, Operand::Int(_))).then(|| "an integer constant".into()),
        Arg::Label => {
            (!matches!(operand, Operand::Name { negated: false, .. })).then(|| "a label".into())
        }
        Arg::Opt(_) => None,
    }
}
