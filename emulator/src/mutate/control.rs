//! Changes of order and of flow: barriers, fences, branches, predicates, exchange between lanes.

use super::site::Site;
use super::{Changes, Kind};
use crate::ast::Statement;

/// `next` is what follows the instruction.
pub(super) fn changes(site: &Site<'_>, next: &[Statement], all: &mut Changes) {
    match site.op() {
        "bar" | "barrier" => barrier(site, all),
        "mbarrier" => mbarrier(site, all),
        "cp" => wait(site, all),
        "fence" | "membar" => fence(site, all),
        "ld" | "st" | "atom" | "red" => order(site, all),
        "bra" | "ret" | "exit" => return branch(site, next, all),
        "setp" | "set" => comparison(site, all),
        "and" | "or" | "xor" | "not" if site.ty() == "pred" => logic(site, all),
        "selp" | "slct" => all.push(Kind::Select, site.swapped(1, 2)),
        "shfl" => shuffle(site, all),
        "vote" => {
            let votes = [("any", "all"), ("all", "any"), ("uni", "any")];
            all.push(Kind::Exchange, site.with_one(&votes));
        }
        "redux" => {
            let sums = [
                ("min", "max"),
                ("max", "min"),
                ("and", "or"),
                ("or", "and"),
                ("xor", "or"),
                ("add", "max"),
            ];
            all.push(Kind::Exchange, site.with_one(&sums));
        }
        _ => {}
    }
    all.push(Kind::Guard, site.guard_negated());
    all.push(Kind::Guard, site.guard_dropped());
}

fn barrier(site: &Site<'_>, all: &mut Changes) {
    all.delete(Kind::Barrier);
    if site.has("warp") || site.has("arrive") || site.has("cluster") {
        return;
    }
    if site.has("red") {
        all.push(
            Kind::Barrier,
            site.with_one(&[("and", "or"), ("or", "and")]),
        );
    } else if !site.is_guarded() {
        // Of the block's, not the warp's.
        all.push(Kind::Barrier, "bar.warp.sync 0xffffffff;".to_string());
    }
}

/// An arrival that is left out, a wait that is over at once.
fn mbarrier(site: &Site<'_>, all: &mut Changes) {
    if site.modifiers().any(|m| m.starts_with("arrive")) {
        all.delete(Kind::Barrier);
    }
    if site.has("test_wait") || site.has("try_wait") {
        let over = format!("{}setp.eq.u32 {}, 0, 0;", site.guard(), site.operand(0));
        all.push(Kind::Wait, over);
    }
}

fn wait(site: &Site<'_>, all: &mut Changes) {
    if site.has("commit_group") || site.has("wait_all") || site.has("mbarrier") {
        all.delete(Kind::Wait);
    } else if site.has("wait_group") {
        all.delete(Kind::Wait);
        let group = site.integer(0);
        all.push(
            Kind::Wait,
            group.map(|n| site.with_operand(0, &(n + 1).to_string())),
        );
    }
}

const NARROWER: &[(&str, &str)] = &[
    ("sys", "gpu"),
    ("gpu", "cta"),
    ("cluster", "cta"),
    ("gl", "cta"),
];

fn fence(site: &Site<'_>, all: &mut Changes) {
    all.delete(Kind::Fence);
    all.push(Kind::Fence, site.with("sc", "acq_rel"));
    match site.op() {
        "membar" => all.push(Kind::Fence, site.with_one(&[("sys", "gl"), ("gl", "cta")])),
        _ => all.push(Kind::Fence, site.with_one(NARROWER)),
    }
}

/// Of accesses that say how they are ordered.
fn order(site: &Site<'_>, all: &mut Changes) {
    const STRONG: &[(&str, &str)] = &[
        ("acquire", "relaxed"),
        ("release", "relaxed"),
        ("acq_rel", "relaxed"),
    ];
    let strong = site.with_one(STRONG);
    let atomic = matches!(site.op(), "atom" | "red");
    let scoped = NARROWER.iter().any(|(scope, _)| site.has(scope));
    if !atomic {
        all.push(Kind::Order, site.with("volatile", ""));
    }
    if atomic && !scoped && strong.is_none() && !site.has("relaxed") && !site.has("shared") {
        // Of the GPU, if it does not say.
        all.push(Kind::Order, site.with_first("cta"));
    }
    all.push(Kind::Order, strong);
    if !site.has("mmio") {
        all.push(Kind::Order, site.with_one(NARROWER));
    }
}

fn branch(site: &Site<'_>, next: &[Statement], all: &mut Changes) {
    all.push(Kind::Branch, site.guard_negated());
    all.push(Kind::Branch, site.guard_dropped());
    // Left out, a branch to what follows changes nothing, and neither does the last exit.
    let mut labels = next.iter().take_while(|statement| {
        !matches!(statement, Statement::Instruction(_) | Statement::Block(_))
    });
    let target = site.operand(0);
    let falls_there =
        labels.any(|statement| matches!(statement, Statement::Label(name, _) if name == target));
    let last = !next
        .iter()
        .any(|statement| matches!(statement, Statement::Instruction(_) | Statement::Block(_)));
    // A call's `ret` may end in a block of its own: whoever follows is not seen from here.
    let ends = matches!(site.op(), "ret" | "exit") && (last || only_ends(next));
    if !falls_there && !ends {
        all.delete(Kind::Branch);
    }
}

/// Whether what follows only ends, too.
fn only_ends(next: &[Statement]) -> bool {
    let first = next.iter().find_map(|statement| match statement {
        Statement::Instruction(instruction) => Some(instruction),
        _ => None,
    });
    first.is_some_and(|instruction| {
        instruction.guard.is_none() && matches!(&*instruction.opcode[0], "ret" | "exit")
    })
}

/// The same with the limit, or without it; and what is true where this is false.
const COMPARISONS: &[(&str, [&str; 2])] = &[
    ("eq", ["ne", "ne"]),
    ("ne", ["eq", "eq"]),
    ("lt", ["le", "ge"]),
    ("le", ["lt", "gt"]),
    ("gt", ["ge", "le"]),
    ("ge", ["gt", "lt"]),
    ("lo", ["ls", "hs"]),
    ("ls", ["lo", "hi"]),
    ("hi", ["hs", "ls"]),
    ("hs", ["hi", "lo"]),
    ("equ", ["neu", "neu"]),
    ("neu", ["equ", "equ"]),
    ("ltu", ["leu", "geu"]),
    ("leu", ["ltu", "gtu"]),
    ("gtu", ["geu", "leu"]),
    ("geu", ["gtu", "ltu"]),
    ("num", ["nan", "nan"]),
    ("nan", ["num", "num"]),
];

fn comparison(site: &Site<'_>, all: &mut Changes) {
    let known = |m: &str| COMPARISONS.iter().find(|(name, _)| *name == m);
    // The first that is one: a type is never called so.
    let found = site
        .modifiers()
        .enumerate()
        .find_map(|(n, m)| Some((n, known(m)?)));
    if let Some((n, (_, others))) = found {
        for other in others {
            all.push(Kind::Comparison, site.with_nth(n, other));
        }
    }
    all.push(
        Kind::Logic,
        site.with_one(&[("and", "or"), ("or", "and"), ("xor", "or")]),
    );
}

fn logic(site: &Site<'_>, all: &mut Changes) {
    let other = match site.op() {
        "and" => "or",
        "or" | "xor" => "and",
        _ => "mov",
    };
    all.push(Kind::Logic, site.with_op(other));
}

fn shuffle(site: &Site<'_>, all: &mut Changes) {
    let modes = [
        ("bfly", "down"),
        ("down", "up"),
        ("up", "down"),
        ("idx", "bfly"),
    ];
    all.push(Kind::Exchange, site.with_one(&modes));
    // The lane, if it is a constant.
    let lane = site.integer(2).filter(|lane| (0..31).contains(lane));
    let other = lane.map(|lane| if lane == 0 { 1 } else { (2 * lane) % 32 });
    all.push(
        Kind::Exchange,
        other.map(|lane| site.with_operand(2, &lane.to_string())),
    );
}
