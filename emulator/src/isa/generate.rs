//! Random programs made of the table's rows: what fuzzing and tests feed to the binder and the machine.
//!
//! Most instructions of such a program bind, and many run: registers start with values that make
//! addresses, small numbers and awkward floats, so that programs come further than their first load.

use std::fmt::Write;

use super::{Arg, Count, FAMILIES, Mod, Row, Ty};
use crate::ast::Type;
use crate::{Checks, Config, Emulator, Gpu, LaunchConfig, LaunchError, MmaMode};

/// Choices drawn from bytes; always the first alternative once they are used up.
pub struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    /// Draws from these bytes.
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes }
    }

    /// A number below `bound`, which is from 1 to 65536.
    pub fn below(&mut self, bound: usize) -> usize {
        let mut value = 0;
        for _ in 0..if bound > 256 { 2 } else { 1 } {
            let Some((first, rest)) = self.bytes.split_first() else {
                return 0;
            };
            self.bytes = rest;
            value = value << 8 | usize::from(*first);
        }
        value % bound.max(1)
    }

    fn one<'t, T: ?Sized>(&mut self, of: &[&'t T]) -> &'t T {
        of[self.below(of.len())]
    }

    fn done(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// How far a program came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was refused when loaded.
    Refused,
    /// It broke a rule.
    Stopped,
    /// To its end.
    Through,
}

/// Runs the program that these bytes stand for, on blocks and with checks that they choose too.
///
/// # Panics
/// If the emulator fails, which no program can be the reason of.
pub fn exercise(bytes: &[u8]) -> Came {
    let mut choices = Choices::new(bytes);
    let mma = [MmaMode::Fast, MmaMode::Ampere, MmaMode::Hopper];
    let config = Config {
        gpu: Gpu::L4,
        checks: [Checks::ALL, Checks::NONE][choices.below(2)],
        mma: mma[choices.below(3)],
        seed: choices.below(256) as u64,
        threads: 1,
        budget: 4000,
        profile: true,
        perturb: choices.below(2) == 1,
        ..Config::default()
    };
    let launch = LaunchConfig {
        grid: [1 + choices.below(3) as u32, 1, 1],
        block: [[64, 32, 33, 5][choices.below(4)], 1, 1],
        dynamic_smem: [0, 4096][choices.below(2)],
    };
    run(&program(&mut choices), config, &launch)
}

/// Loads a text, binds its kernel `k` and runs it.
fn run(text: &str, config: Config, launch: &LaunchConfig) -> Came {
    let device = Emulator::new(config);
    let Ok(kernel) = device.load(text).and_then(|module| module.kernel("k")) else {
        return Came::Refused;
    };
    let [a, b] = [2048, 512].map(|bytes| {
        let address = device.alloc(bytes).expect("there is memory");
        device.fill(address, 0x3c, bytes / 2).expect("in bounds");
        address.to_le_bytes()
    });
    match device.launch(&kernel, launch, &[&a, &b, &[0x11; 32]]) {
        Ok(_) => Came::Through,
        Err(LaunchError::Internal(error)) => panic!("{error}\n{text}"),
        Err(_) => Came::Stopped,
    }
}

/// Instructions of a program at most.
const LENGTH: usize = 24;

const HEAD: &str = "\
.version 8.8
.target sm_89
.address_size 64
.global .align 16 .b8 table[256] = {1, 2, 3, 4, 5, 6, 7, 8};
.const .align 16 .b8 fixed[64] = {9, 8, 7};
.extern .shared .align 16 .b8 dynamic[];
.visible .entry k(.param .u64 a, .param .u64 b, .param .align 16 .b8 s[32])
{
.reg .pred %p<4>;
.reg .b16 %h<8>;
.reg .b32 %r<8>;
.reg .b64 %d<8>;
.local .align 16 .b8 frame[128];
.shared .align 16 .b8 tile[1024];
ld.param.u64 %d0, [a];
ld.param.u64 %d1, [b];
mov.u32 %r0, %tid.x;
mul.wide.u32 %d2, %r0, 16;
add.u64 %d3, %d0, %d2;
mov.u32 %r1, tile;
shl.b32 %r2, %r0, 4;
add.u32 %r2, %r2, %r1;
mov.u32 %r3, -1;
mov.b32 %r4, 0f3F800000;
mov.b32 %r5, 0x7BFF8001;
mul.lo.u32 %r6, %r0, 0x9E3779B9;
mov.u32 %r7, 31;
mov.u64 %d4, tile;
cvta.shared.u64 %d4, %d4;
mov.b64 %d5, 0d3FF0000000000000;
mov.u64 %d6, 0xFFF0000000000001;
mul.wide.u32 %d7, %r6, %r6;
cvt.u16.u32 %h0, %r0;
mov.b16 %h1, 0x3C00;
mov.b16 %h2, 0x7C01;
mov.b16 %h3, 0xFFFF;
mov.b16 %h4, 0;
mov.b16 %h5, 0x8001;
mov.b16 %h6, 1;
mov.b16 %h7, 0x4248;
setp.lt.u32 %p0, %r0, 16;
setp.eq.u32 %p1, %r0, 0;
setp.ge.u32 %p2, %r0, 0;
setp.ne.u32 %p3, %r0, %r0;
";

/// A module whose kernel `k` takes two pointers and 32 bytes.
pub fn program(choices: &mut Choices<'_>) -> String {
    let mut text = HEAD.to_string();
    let rows: Vec<&Row> = FAMILIES
        .iter()
        .copied()
        .flatten()
        .filter(|row| !row.opcode.contains(' '))
        .collect();
    let length = 1 + choices.below(LENGTH);
    for at in 0..length {
        let _ = write!(text, "L{at}: ");
        statement(&mut text, rows[choices.below(rows.len())], length, choices);
        if choices.done() {
            break;
        }
    }
    for at in 0..length {
        // Labels behind the end, for programs that were cut short.
        if !text.contains(&format!("L{at}:")) {
            let _ = write!(text, "L{at}: ");
        }
    }
    text.push_str("ret;\n}\n");
    text
}

/// One instruction of a row.
fn statement(text: &mut String, row: &Row, labels: usize, choices: &mut Choices<'_>) {
    match choices.below(8) {
        0 => {
            let _ = write!(text, "@%p{} ", choices.below(4));
        }
        1 => {
            let _ = write!(text, "@!%p{} ", choices.below(4));
        }
        _ => {}
    }
    text.push_str(row.opcode);
    let mut types = Vec::new();
    let mut chosen = Vec::new();
    for modifier in row.mods {
        let token = match modifier {
            Mod::Flag(token) => (choices.below(2) == 1).then_some(*token),
            Mod::Need(token) => Some(*token),
            Mod::Maybe(group, tokens) => {
                let at = choices.below(tokens.len() + 1);
                let token = tokens.get(at).copied();
                chosen.push((*group, token));
                token
            }
            Mod::One(group, tokens) => {
                let token = choices.one(tokens);
                chosen.push((*group, Some(token)));
                Some(token)
            }
            Mod::Types(of) => {
                let ty = of[choices.below(of.len())];
                types.push(ty);
                None
            }
        };
        if let Some(token) = token {
            let _ = write!(text, ".{token}");
        }
        if let (Mod::Types(_), Some(ty)) = (modifier, types.last()) {
            let _ = write!(text, ".{}", ty.token());
        }
    }
    let form = Written {
        types,
        chosen,
        labels,
    };
    let mut first = true;
    for arg in row.args {
        let arg = match arg {
            Arg::Opt(_) if choices.below(2) == 0 => break,
            Arg::Opt(arg) => arg,
            arg => arg,
        };
        text.push_str(if first { " " } else { ", " });
        first = false;
        form.operand(text, arg, choices);
    }
    text.push_str(";\n");
}

/// The modifiers of an instruction, as its operands depend on them.
struct Written {
    types: Vec<Type>,
    chosen: Vec<(&'static str, Option<&'static str>)>,
    labels: usize,
}

impl Written {
    fn bits(&self, ty: Ty) -> u32 {
        let nth = |n: u8| self.types.get(usize::from(n)).copied();
        match ty {
            Ty::T(n) => nth(n).map_or(32, Type::bits),
            Ty::Wide(n) => nth(n).map_or(64, |ty| 2 * ty.bits()),
            Ty::Is(ty) => ty.bits(),
        }
    }

    fn is_pred(&self, ty: Ty) -> bool {
        match ty {
            Ty::T(n) => self.types.get(usize::from(n)) == Some(&Type::Pred),
            Ty::Wide(_) => false,
            Ty::Is(ty) => ty == Type::Pred,
        }
    }

    fn count(&self, count: Count) -> usize {
        match count {
            Count::Fixed(count) => usize::from(count),
            Count::Group(group) => self
                .chosen
                .iter()
                .find(|(name, _)| *name == group)
                .and_then(|(_, token)| token.and_then(|token| token[1..].parse().ok()))
                .unwrap_or(1),
        }
    }

    /// A register that holds at least `bits` bits.
    fn register(&self, text: &mut String, ty: Ty, wider: bool, choices: &mut Choices<'_>) {
        if self.is_pred(ty) {
            let _ = write!(text, "%p{}", choices.below(4));
            return;
        }
        let bits = self.bits(ty);
        let extra = if wider && choices.below(8) == 0 { 2 } else { 1 };
        let bank = match bits * extra {
            0..=16 => 'h',
            17..=32 => 'r',
            _ => 'd',
        };
        let _ = write!(text, "%{bank}{}", choices.below(8));
    }

    fn source(&self, text: &mut String, ty: Ty, wider: bool, choices: &mut Choices<'_>) {
        if self.is_pred(ty) && choices.below(4) == 0 {
            text.push('!');
        } else if !self.is_pred(ty) && choices.below(6) == 0 {
            let literals = [
                "0",
                "1",
                "-1",
                "31",
                "32",
                "0x80000000",
                "255",
                "0f7F800001",
            ];
            text.push_str(choices.one(&literals));
            return;
        } else if self.bits(ty) == 32 && choices.below(16) == 0 {
            let specials = ["%laneid", "%tid.y", "%lanemask_lt", "%clock", "%ctaid.x"];
            text.push_str(choices.one(&specials));
            return;
        }
        self.register(text, ty, wider, choices);
    }

    fn vector(
        &self,
        text: &mut String,
        (ty, count): (Ty, Count),
        destination: bool,
        choices: &mut Choices<'_>,
    ) {
        let count = self.count(count);
        let bare = count == 1 && choices.below(2) == 0;
        text.push_str(if bare { "" } else { "{" });
        for at in 0..count {
            text.push_str(if at == 0 { "" } else { ", " });
            if destination {
                self.register(text, ty, true, choices);
            } else {
                self.source(text, ty, true, choices);
            }
        }
        text.push_str(if bare { "" } else { "}" });
    }

    fn operand(&self, text: &mut String, arg: &Arg, choices: &mut Choices<'_>) {
        match *arg {
            Arg::D(_) | Arg::DW(_) if choices.below(24) == 1 => text.push('_'),
            Arg::D(ty) => self.register(text, ty, false, choices),
            Arg::DW(ty) => self.register(text, ty, true, choices),
            Arg::Pair(first, second) => {
                self.register(text, first, false, choices);
                if choices.below(2) == 1 {
                    text.push('|');
                    self.register(text, second, false, choices);
                }
            }
            Arg::DV(ty, count) => self.vector(text, (ty, count), true, choices),
            Arg::S(ty) => self.source(text, ty, false, choices),
            Arg::SW(ty) => self.source(text, ty, true, choices),
            Arg::SV(ty, count) => self.vector(text, (ty, count), false, choices),
            Arg::A => {
                let bases = [
                    "%d3", "%d0", "%d1", "%d4", "%r2", "%r1", "tile", "frame", "table", "fixed",
                    "a", "s", "%d6", "%r6", "dynamic",
                ];
                let _ = write!(text, "[{}", choices.one(&bases));
                let offsets = ["", "+16", "+4", "+8", "-16", "+1", "+1020", "+0x7fffffff"];
                let _ = write!(text, "{}]", choices.one(&offsets));
            }
            Arg::I => {
                let values = ["0", "1", "4", "16", "8", "128", "255", "-1", "0x7fffffff"];
                text.push_str(choices.one(&values));
            }
            Arg::Label => {
                let _ = write!(text, "L{}", choices.below(self.labels));
            }
            Arg::Opt(arg) => self.operand(text, arg, choices),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Random;

    fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
        (0..len).map(|_| random.next() as u8).collect()
    }

    #[test]
    fn random_programs_end_one_way_or_another() {
        let mut random = Random::new(0x5eed, 1);
        let mut came = [0; 3];
        for _ in 0..4000 {
            let len = 8 + random.below(200) as usize;
            came[exercise(&bytes(&mut random, len)) as usize] += 1;
        }
        println!("refused, stopped, through: {came:?}");
        assert!(came[1] > 400 && came[2] > 400, "{came:?}");
    }

    /// Else some instruction would never meet the fuzzer.
    #[test]
    fn every_row_can_be_generated() {
        let mut random = Random::new(0x5eed, 2);
        let device = Emulator::new(Config {
            gpu: Gpu::L4,
            ..Config::default()
        });
        let rows = FAMILIES.iter().copied().flatten();
        let mut missing = Vec::new();
        for row in rows.filter(|row| !row.opcode.contains(' ') && row.since.0 <= 89) {
            let mut last = String::new();
            let binds = (0..400).any(|_| {
                let bytes = bytes(&mut random, 64);
                let mut text = HEAD.to_string();
                text.push_str("L0: ");
                last.clear();
                statement(&mut last, row, 1, &mut Choices::new(&bytes));
                text.push_str(&last);
                text.push_str("ret;\n}\n");
                let module = device.load(&text).expect("the text is well formed");
                module.kernel("k").is_ok()
            });
            if !binds {
                missing.push(last);
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
