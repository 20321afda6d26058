//! The inner loop: a group of lanes, instruction by instruction.

use super::lanes::{Group, Groups, State};
use crate::isa::{Flow, Inst, Mod, Together};
use crate::memory::defer::Before;
use crate::violation::{Fault, Kind};
use crate::warning::WarningKind;
use crate::warp::Warp;

/// Where a group was left.
pub(super) enum Left {
    /// Back among the groups.
    Somewhere,
    /// Lanes have exited.
    Exited,
    /// Back among the groups, and others should run first.
    Waiting,
    /// These lanes have come to a barrier; they are among the groups.
    Barrier(u32),
}

/// What ended a run.
pub(super) enum Wrong {
    Program(Box<Fault>),
    Emulator(String),
}

impl From<Box<Fault>> for Wrong {
    fn from(fault: Box<Fault>) -> Wrong {
        Wrong::Program(fault)
    }
}

/// What an instruction has put aside.
#[cold]
fn faulted(warp: &mut Warp<'_>) -> Wrong {
    match warp.fault.take() {
        Some(fault) => Wrong::Program(fault),
        None => Wrong::Emulator("an instruction failed without a reason".to_string()),
    }
}

/// Runs a group until it comes to `stop`, leaves the straight line while there are others, or has
/// had its turn.
pub(super) fn run_group(
    warp: &mut Warp<'_>,
    mut group: Group,
    stop: u32,
    end: u64,
    groups: &mut Groups,
) -> Result<Left, Wrong> {
    let insts = warp.launch.program.insts.as_slice();
    let check = warp.launch.checks.init;
    let alone = groups.list.is_empty();
    group.state = State::Ready;
    let mask = group.mask;
    while warp.clock < end {
        let Some(inst) = insts.get(group.pc as usize) else {
            return Err(Wrong::Emulator(format!(
                "position {} is outside of the program",
                group.pc
            )));
        };
        if inst.straight > 1 && !warp.deferred.any() {
            let most = (end - warp.clock).min(u64::from(stop - group.pc));
            let count = usize::from(inst.straight).min(most as usize);
            run_straight(warp, &insts[group.pc as usize..][..count], group.pc, mask)?;
            group.pc += count as u32;
            if group.pc >= stop {
                break;
            }
            continue;
        }
        warp.pc = group.pc;
        warp.clock += 1;
        if warp.deferred.any() {
            match warp.settle(inst, mask) {
                Before::Go => {}
                Before::Fault => return Err(faulted(warp)),
                Before::Wait => {
                    groups.put(group);
                    return Ok(Left::Waiting);
                }
            }
        }
        let mut active = mask;
        if inst.guard != 0 {
            let guard = usize::from(inst.guard);
            let bits = warp.regs.p.get(guard).copied().unwrap_or(0) ^ inst.guard_flip;
            if check {
                let valid = warp.regs.vp.get(guard).copied().unwrap_or(0);
                warp.need(mask, valid, "the guard of the instruction")?;
            }
            active &= bits;
        }
        warp.counters.execute(group.pc, active);
        if inst.together != Together::No && active != 0 {
            let ready = together(warp, inst, active)?;
            if ready != mask {
                if ready != active {
                    warp.counters.postpone(group.pc, active);
                    if warp.launch.checks.converged && aligned(warp) {
                        warp.warn(WarningKind::NotConverged, active);
                    }
                }
                if ready != 0 {
                    if ready != active {
                        warp.counters.execute(group.pc, ready);
                    }
                    // Those that are complete run; what is left of the group comes later.
                    let flow = (inst.exec)(warp, inst, ready);
                    if flow == Flow::Fault {
                        return Err(faulted(warp));
                    }
                    match flow {
                        Flow::Barrier => {
                            let id = warp.barrier.id;
                            let state = if warp.barrier.arrive {
                                State::Ready
                            } else {
                                State::Barrier(id)
                            };
                            let pc = if warp.barrier.arrive {
                                group.pc + 1
                            } else {
                                group.pc
                            };
                            groups.put(Group {
                                mask: ready,
                                state,
                                pc,
                                back: 0,
                                slot: warp.barrier.slot,
                            });
                        }
                        _ => groups.put(Group {
                            mask: ready,
                            pc: group.pc + 1,
                            ..group
                        }),
                    }
                    groups.put(Group {
                        mask: active & !ready,
                        state: State::Together,
                        ..group
                    });
                    groups.put(Group {
                        mask: mask & !active,
                        pc: group.pc + 1,
                        ..group
                    });
                    if active != ready {
                        groups.wake();
                    }
                    return Ok(if flow == Flow::Barrier {
                        Left::Barrier(ready)
                    } else {
                        Left::Somewhere
                    });
                }
                groups.put(Group {
                    mask: active,
                    state: State::Together,
                    ..group
                });
                groups.put(Group {
                    mask: mask & !active,
                    pc: group.pc + 1,
                    ..group
                });
                return Ok(Left::Somewhere);
            }
        }
        if active != 0 || inst.always {
            let flow = (inst.exec)(warp, inst, active);
            if flow == Flow::Next {
                group.pc += 1;
                if group.pc >= stop {
                    break;
                }
                continue;
            }
            match flow {
                Flow::Next => {}
                Flow::Fault => return Err(faulted(warp)),
                Flow::Jump => {
                    let back = inst.target <= group.pc;
                    group.back += u32::from(back && !alone);
                    if active == mask {
                        group.pc = inst.target;
                        if alone {
                            continue;
                        }
                        groups.put(group);
                    } else {
                        if let Some(site) = warp.counters.site(warp.pc) {
                            site.divergent += 1;
                        }
                        groups.put(Group {
                            mask: active,
                            pc: inst.target,
                            ..group
                        });
                        groups.put(Group {
                            mask: mask & !active,
                            pc: group.pc + 1,
                            ..group
                        });
                    }
                    return Ok(Left::Somewhere);
                }
                Flow::Scatter => {
                    let first = warp.targets[active.trailing_zeros() as usize % 32];
                    let split =
                        (0..32).any(|lane| active >> lane & 1 != 0 && warp.targets[lane] != first);
                    if (split || active != mask)
                        && let Some(site) = warp.counters.site(warp.pc)
                    {
                        site.divergent += 1;
                    }
                    let mut left = active;
                    while left != 0 {
                        let target = warp.targets[left.trailing_zeros() as usize];
                        let same = (0..32)
                            .filter(|lane| left >> lane & 1 != 0 && warp.targets[*lane] == target);
                        let same = same.fold(0, |mask, lane| mask | 1 << lane);
                        let back = group.back + u32::from(target <= group.pc);
                        groups.put(Group {
                            mask: same,
                            pc: target,
                            back,
                            ..group
                        });
                        left &= !same;
                    }
                    groups.put(Group {
                        mask: mask & !active,
                        pc: group.pc + 1,
                        ..group
                    });
                    return Ok(Left::Somewhere);
                }
                Flow::Exit => {
                    let pending = warp.own_copies().lanes() & active;
                    if pending != 0 {
                        warp.warn(WarningKind::PendingCopies, pending);
                    }
                    groups.put(Group {
                        mask: mask & !active,
                        pc: group.pc + 1,
                        ..group
                    });
                    groups.exit(active);
                    return Ok(Left::Exited);
                }
                Flow::Barrier => {
                    let arrive = warp.barrier.arrive;
                    let state = if arrive {
                        State::Ready
                    } else {
                        State::Barrier(warp.barrier.id)
                    };
                    let pc = if arrive { group.pc + 1 } else { group.pc };
                    groups.put(Group {
                        mask: active,
                        state,
                        pc,
                        back: 0,
                        slot: warp.barrier.slot,
                    });
                    groups.put(Group {
                        mask: mask & !active,
                        pc: group.pc + 1,
                        ..group
                    });
                    return Ok(Left::Barrier(active));
                }
            }
        }
        group.pc += 1;
        if group.pc >= stop {
            break;
        }
    }
    groups.put(group);
    Ok(Left::Somewhere)
}

/// Runs instructions that do nothing but compute. No other lane or warp can tell when they run, so
/// what other instructions are asked one by one is asked once for all of them.
fn run_straight(warp: &mut Warp<'_>, insts: &[Inst], first: u32, mask: u32) -> Result<(), Wrong> {
    warp.counters.execute_straight(first, insts.len(), mask);
    for (pc, inst) in (first..).zip(insts) {
        warp.pc = pc;
        warp.clock += 1;
        if (inst.exec)(warp, inst, mask) != Flow::Next {
            return Err(faulted(warp));
        }
    }
    Ok(())
}

/// Whether the instruction promises that all lanes of the warp come to it together.
#[cold]
fn aligned(warp: &Warp<'_>) -> bool {
    let about = warp.launch.program.about.get(warp.pc as usize);
    about.is_some_and(|about| {
        let says = |spec: &Mod| matches!(spec, Mod::Need("aligned"));
        about.row.opcode == "bar" || about.row.mods.iter().any(says)
    })
}

/// Which of the lanes that have come to a collective instruction can run it now: those of whom all
/// that they wait for are there.
fn together(warp: &Warp<'_>, inst: &Inst, active: u32) -> Result<u32, Box<Fault>> {
    match inst.together {
        Together::No => Ok(active),
        Together::Live => Ok(if active == warp.live { active } else { 0 }),
        Together::Warp => {
            if warp.live != u32::MAX {
                let reason = "they have exited or never existed".to_string();
                return Err(warp.fault(
                    Kind::LanesMissing {
                        missing: !warp.live,
                        reason,
                    },
                    active,
                ));
            }
            Ok(if active == u32::MAX { active } else { 0 })
        }
        Together::Mask(operand) => {
            let slot = inst.s.get(usize::from(operand)).copied().unwrap_or(0);
            warp.need(active, warp.valid32(slot), "the member mask")?;
            let masks = &warp.r32(slot).0;
            let first = masks[active.trailing_zeros() as usize % 32];
            if first == active
                && (0..32).all(|lane| active >> lane & 1 == 0 || masks[lane] == first)
            {
                return Ok(active);
            }
            let mut ready = 0;
            for lane in (0..32).filter(|lane| active >> lane & 1 != 0) {
                let mask = masks[lane];
                if mask >> lane & 1 == 0 {
                    return Err(warp.fault(Kind::NotInMask { mask }, 1 << lane));
                }
                if mask & !warp.live != 0 {
                    let missing = mask & !warp.live;
                    let reason = "they have exited or never existed".to_string();
                    return Err(warp.fault(Kind::LanesMissing { missing, reason }, 1 << lane));
                }
                let same = |other: &usize| {
                    mask >> other & 1 != 0 && active >> other & 1 != 0 && masks[*other] == mask
                };
                if ready == 0 && (0..32).filter(same).count() as u32 == mask.count_ones() {
                    ready = mask;
                }
            }
            Ok(ready)
        }
    }
}
