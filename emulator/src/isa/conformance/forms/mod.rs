//! Every form of a row against a model of what the ISA says of it.
//!
//! [`forms`] writes a row in all the ways its modifiers, types and widths of registers allow. A rule
//! answers for each with a function from the values of the sources to those of the destinations, or
//! with `None` if the ISA has no such form; the loader has to agree, and so has the machine. The rules
//! know nothing of the rows and share no code with them: integers are `i128`, floats those of LLVM's
//! software floating point.

mod compare;
mod convert;
mod float;
mod integer;
mod samples;
mod special;

use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::{Arg, Mod, Row, Ty};
use crate::ast::Type;
use crate::{Checks, Config, Emulator, Gpu, LaunchConfig};

/// From the values of the sources to those of the destinations.
type Model = Box<dyn Fn(&[u64]) -> Vec<u64>>;

/// What the ISA says of a form.
type Rule = fn(&Form) -> Option<Model>;

/// A row, as it may be written.
#[derive(Clone)]
struct Form {
    opcode: &'static str,
    /// Modifiers but for types.
    tokens: Vec<&'static str>,
    types: Vec<Type>,
    /// The opcode with all modifiers.
    name: String,
    operands: Vec<Operand>,
}

/// An operand of a form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operand {
    /// A register of this many bits (1 for a predicate) that holds a type.
    Source(Type, u32),
    Destination(Type, u32),
    /// The second of `d|p`.
    Second(Type, u32),
    Constant(i64),
    /// The carry, from one instruction to the next.
    CarryIn,
    CarryOut,
}

impl Form {
    fn has(&self, token: &str) -> bool {
        self.tokens.contains(&token)
    }

    /// Which of these is among the modifiers.
    fn among(&self, tokens: &[&'static str]) -> Option<&'static str> {
        tokens.iter().copied().find(|token| self.has(token))
    }

    /// What it reads: type and width of the register.
    fn sources(&self) -> Vec<(Type, u32)> {
        let source = |operand: &Operand| match *operand {
            Operand::Source(ty, bits) => Some((ty, bits)),
            Operand::CarryIn => Some((Type::Pred, 1)),
            _ => None,
        };
        self.operands.iter().filter_map(source).collect()
    }

    /// What it writes.
    fn destinations(&self) -> Vec<(Type, u32)> {
        let destination = |operand: &Operand| match *operand {
            Operand::Destination(ty, bits) | Operand::Second(ty, bits) => Some((ty, bits)),
            Operand::CarryOut => Some((Type::B32, 32)),
            _ => None,
        };
        self.operands.iter().filter_map(destination).collect()
    }

    /// Its text on registers `s0`, `s1`, .. and `d0`, `d1`, ..
    fn text(&self) -> String {
        let mut text = self.name.clone();
        let (mut sources, mut destinations) = (0, 0);
        for (at, operand) in self.operands.iter().enumerate() {
            let separator = match operand {
                Operand::CarryIn | Operand::CarryOut => break,
                Operand::Second(..) => "|",
                _ if at == 0 => " ",
                _ => ", ",
            };
            text += separator;
            match operand {
                Operand::Constant(value) => text += &value.to_string(),
                Operand::Source(..) => {
                    text += &format!("s{sources}");
                    sources += 1;
                }
                _ => {
                    text += &format!("d{destinations}");
                    destinations += 1;
                }
            }
        }
        text + ";"
    }

    /// The same with declarations of the destinations, and with the carry set before and read after.
    fn statement(&self) -> String {
        let mut text = String::new();
        for (k, (_, bits)) in self.destinations().iter().enumerate() {
            writeln!(text, "{} d{k};", declaration(*bits)).expect("a string");
        }
        if self.operands.contains(&Operand::CarryIn) {
            let from = self.sources().len() - 1;
            writeln!(text, ".reg .b32 c;\nselp.b32 c, 1, 0, s{from};").expect("a string");
            text += "add.cc.u32 c, c, 0xffffffff;\n";
        }
        text += &self.text();
        if self.operands.contains(&Operand::CarryOut) {
            let to = self.destinations().len() - 1;
            write!(text, "\naddc.u32 d{to}, 0, 0;").expect("a string");
        }
        text
    }
}

fn declaration(bits: u32) -> String {
    match bits {
        1 => ".reg .pred".to_string(),
        bits => format!(".reg .b{bits}"),
    }
}

/// Constants of operands that have to be one: tables of `lop3` that no permutation of sources keeps.
const CONSTANTS: [i64; 5] = [0x00, 0xff, 0xd8, 0x4e, 0x1b];

/// All ways to write a row.
fn forms(row: &'static Row) -> Vec<Form> {
    let mut forms = vec![Form {
        opcode: row.opcode,
        tokens: Vec::new(),
        types: Vec::new(),
        name: row.opcode.to_string(),
        operands: Vec::new(),
    }];
    let mut extend = |choices: Vec<Choice>| {
        let all = std::mem::take(&mut forms);
        forms = all
            .iter()
            .flat_map(|form| choices.iter().map(|choice| choice.applied(form)))
            .collect();
    };
    for modifier in row.mods {
        let tokens = |tokens: &[&'static str]| tokens.iter().copied().map(Choice::Token).collect();
        extend(match *modifier {
            Mod::Need(token) => vec![Choice::Token(token)],
            Mod::Flag(token) => vec![Choice::Nothing, Choice::Token(token)],
            Mod::One(_, all) => tokens(all),
            Mod::Maybe(_, all) => [vec![Choice::Nothing], tokens(all)].concat(),
            Mod::Types(types) => types.iter().copied().map(Choice::Type).collect(),
        });
    }
    for arg in row.args {
        forms = forms
            .iter()
            .flat_map(|form| with_operand(form, arg))
            .collect();
    }
    for form in &mut forms {
        let reads = matches!(row.opcode, "addc" | "subc" | "madc");
        if reads || form.has("cc") {
            form.operands.extend([Operand::CarryIn, Operand::CarryOut]);
        }
    }
    forms
}

/// A way to fill in a modifier.
#[derive(Clone, Copy)]
enum Choice {
    Nothing,
    Token(&'static str),
    Type(Type),
}

impl Choice {
    fn applied(self, form: &Form) -> Form {
        let mut form = form.clone();
        match self {
            Choice::Nothing => return form,
            Choice::Token(token) => form.tokens.push(token),
            Choice::Type(ty) => form.types.push(ty),
        }
        form.name += ".";
        form.name += match self {
            Choice::Token(token) => token,
            Choice::Type(ty) => ty.token(),
            Choice::Nothing => "",
        };
        form
    }
}

/// The form with an operand more, in all widths that its register may have.
fn with_operand(form: &Form, arg: &Arg) -> Vec<Form> {
    let exact = |ty: Ty| {
        let ty = match ty {
            Ty::T(n) => form.types[usize::from(n)],
            Ty::Is(ty) => ty,
            Ty::Wide(n) => match form.types[usize::from(n)] {
                Type::U16 => Type::U32,
                Type::S16 => Type::S32,
                Type::U32 => Type::U64,
                _ => Type::S64,
            },
        };
        (
            ty,
            if ty == Type::Pred {
                1
            } else {
                ty.bits().max(16)
            },
        )
    };
    let widths = |ty: Ty| {
        let (ty, least) = exact(ty);
        let all = [16, 32, 64].into_iter().filter(move |bits| *bits >= least);
        all.map(move |bits| (ty, bits))
    };
    let added = |operands: &[Operand]| {
        let mut form = form.clone();
        form.operands.extend(operands);
        form
    };
    match *arg {
        Arg::D(ty) => {
            let (ty, bits) = exact(ty);
            vec![added(&[Operand::Destination(ty, bits)])]
        }
        Arg::S(ty) => {
            let (ty, bits) = exact(ty);
            vec![added(&[Operand::Source(ty, bits)])]
        }
        Arg::DW(ty) => widths(ty)
            .map(|(ty, bits)| added(&[Operand::Destination(ty, bits)]))
            .collect(),
        Arg::SW(ty) => widths(ty)
            .map(|(ty, bits)| added(&[Operand::Source(ty, bits)]))
            .collect(),
        Arg::Pair(a, b) => {
            let ((a, a_bits), (b, b_bits)) = (exact(a), exact(b));
            let first = Operand::Destination(a, a_bits);
            vec![added(&[first, Operand::Second(b, b_bits)])]
        }
        Arg::I => CONSTANTS
            .map(|value| added(&[Operand::Constant(value)]))
            .to_vec(),
        Arg::Opt(inner) => [vec![form.clone()], with_operand(form, inner)].concat(),
        Arg::DV(..) | Arg::SV(..) | Arg::A | Arg::Label => {
            panic!("{}: not of registers alone", form.name)
        }
    }
}

/// Forms of one kernel at most.
const AT_ONCE: usize = 256;

/// Checks all forms of these rows.
fn sweep(rows: &'static [Row], rule: Rule) {
    let mut groups: BTreeMap<String, Vec<(Form, Model)>> = BTreeMap::new();
    let mut refused = Vec::new();
    for row in rows.iter().filter(|row| concerns(row)) {
        for form in forms(row) {
            match rule(&form) {
                Some(model) => {
                    let key = format!("{} {:?}", form.opcode, form.sources());
                    groups.entry(key).or_default().push((form, model));
                }
                None => refused.push(form),
            }
        }
    }
    for forms in groups.values() {
        let (first, sources) = (&forms[0].0, forms[0].0.sources());
        let columns = samples::columns(first.opcode, &sources);
        for forms in forms.chunks(AT_ONCE) {
            compare(&sources, &columns, forms);
        }
    }
    check_refused(&refused);
}

/// Whether a row is of interest: all are, unless one is wrong on purpose.
fn concerns(row: &'static Row) -> bool {
    #[cfg(ptx_mutation)]
    return super::super::mutation::concerns(row);
    #[cfg(not(ptx_mutation))]
    {
        let _ = row;
        true
    }
}

const HEAD: &str = ".version 8.8\n.target sm_90\n.address_size 64\n";
const BLOCK: usize = 128;

fn device() -> Emulator {
    Emulator::new(Config {
        gpu: Gpu::H100,
        checks: Checks::ALL,
        threads: 1,
        ..Config::default()
    })
}

/// Runs the forms on the columns of values, one kernel for all, and compares.
fn compare(sources: &[(Type, u32)], columns: &[Vec<u64>], forms: &[(Form, Model)]) {
    let count = columns.first().map_or(1, Vec::len);
    let padded = count.next_multiple_of(BLOCK);
    let device = device();
    let text = kernel(sources, forms, padded);
    let module = device.load(&text).expect("loads");
    let kernel = module
        .kernel("k")
        .unwrap_or_else(|error| panic!("{error}\n{}", first_refused(forms)));
    let mut bytes = Vec::new();
    for column in columns {
        let values = column.iter().chain(std::iter::repeat(&column[count - 1]));
        bytes.extend(values.take(padded).flat_map(|value| value.to_le_bytes()));
    }
    let slots: usize = forms
        .iter()
        .map(|(form, _)| form.destinations().len())
        .sum();
    let mut results = vec![0; slots * padded * 8];
    let memory = |bytes: usize| device.alloc(bytes.max(8) as u64).expect("memory");
    let (input, output) = (memory(bytes.len()), memory(results.len()));
    device.write(input, &bytes).expect("in bounds");
    device.write(output, &results).expect("in bounds");
    let launch = LaunchConfig {
        grid: [(padded / BLOCK) as u32, 1, 1],
        block: [BLOCK as u32, 1, 1],
        dynamic_smem: 0,
    };
    let parameters = [output.to_le_bytes(), input.to_le_bytes()];
    device
        .launch(&kernel, &launch, &[&parameters[0], &parameters[1]])
        .unwrap_or_else(|error| panic!("{error}"));
    device.read(output, &mut results).expect("in bounds");
    let mut slot = 0;
    for (form, model) in forms {
        let destinations = form.destinations();
        let mut exact = 0;
        for row in 0..count {
            let inputs: Vec<u64> = columns.iter().map(|column| column[row]).collect();
            let expected = model(&inputs);
            assert_eq!(expected.len(), destinations.len(), "{}", form.text());
            for (k, (ty, _)) in destinations.iter().enumerate() {
                let at = ((slot + k) * padded + row) * 8;
                let bytes = results[at..at + 8].try_into().expect("8 bytes");
                let (result, expected) = (u64::from_le_bytes(bytes), expected[k]);
                exact += usize::from(
                    result == expected
                        || expected == ANYTHING
                        || *ty == Type::F64 && f64::from_bits(result).is_nan(),
                );
                assert!(
                    agree(form, *ty, result, expected),
                    "{} on {inputs:x?}: d{k} is {result:#x} for {expected:#x}",
                    form.text()
                );
            }
        }
        // Approximations too are rounded but once.
        let all = count * destinations.len();
        assert!(10 * exact >= 9 * all, "{}: {exact} of {all}", form.text());
        slot += destinations.len();
    }
}

/// What a model says of a value of less than 64 bits that the ISA leaves open.
const ANYTHING: u64 = u64::MAX;

/// Whether a result is as expected: to the bit, but for approximations, and for the payload of an
/// `f64` NaN, of which the ISA does not say whose it is.
fn agree(form: &Form, ty: Type, result: u64, expected: u64) -> bool {
    let is_approximate = form.has("approx") || form.has("full");
    let [a, b] = match ty {
        Type::F64 => [result, expected].map(f64::from_bits),
        _ => [result, expected].map(|raw| f32::from_bits(raw as u32).into()),
    };
    match ty {
        _ if result == expected || expected == ANYTHING => true,
        Type::F64 if a.is_nan() && b.is_nan() => true,
        _ if !is_approximate => false,
        Type::F32 | Type::F64 if !a.is_finite() || !b.is_finite() => false,
        // What is flushed, and what is not, is no matter of nearness.
        Type::F32 | Type::F64 if (a == 0.0) != (b == 0.0) => false,
        Type::F32 => (a - b).abs() <= 2f64.powf(-20.5) * b.abs().max(special::least(form)),
        Type::F64 => (a - b).abs() <= 2f64.powi(-20) * b.abs(),
        // Halves next to each other.
        _ => (0..2)
            .all(|k| (result >> (16 * k) & 0xffff).abs_diff(expected >> (16 * k) & 0xffff) < 2),
    }
}

/// A kernel that loads the sources of its thread, runs the forms, and stores their destinations.
fn kernel(sources: &[(Type, u32)], forms: &[(Form, Model)], padded: usize) -> String {
    let mut text = format!(
        "{HEAD}.entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .b64 out_at, in_at, value;\n.reg .b32 block, thread, at;\n\
         ld.param.u64 out_at, [out];\nld.param.u64 in_at, [in];\n\
         mov.u32 block, %ctaid.x;\nmov.u32 thread, %tid.x;\n\
         mad.lo.s32 at, block, {BLOCK}, thread;\n\
         mad.wide.u32 out_at, at, 8, out_at;\nmad.wide.u32 in_at, at, 8, in_at;\n"
    );
    for (k, (_, bits)) in sources.iter().enumerate() {
        let at = k * padded * 8;
        let load = match bits {
            1 => format!("ld.global.b64 value, [in_at+{at}]; setp.ne.u64 s{k}, value, 0;"),
            bits => format!("ld.global.b{bits} s{k}, [in_at+{at}];"),
        };
        writeln!(text, "{} s{k};\n{load}", declaration(*bits)).expect("a string");
    }
    let mut slot = 0;
    for (form, _) in forms {
        writeln!(text, "{{\n{}", form.statement()).expect("a string");
        for (k, (_, bits)) in form.destinations().into_iter().enumerate() {
            let at = slot * padded * 8;
            let store = match bits {
                1 => format!("selp.b64 value, 1, 0, d{k}; st.global.b64 [out_at+{at}], value;"),
                bits => format!("st.global.b{bits} [out_at+{at}], d{k};"),
            };
            writeln!(text, "{store}").expect("a string");
            slot += 1;
        }
        text += "}\n";
    }
    text + "ret;\n}\n"
}

/// A module with a kernel for each form, that does nothing else.
fn kernels<'a>(forms: impl Iterator<Item = &'a Form>) -> String {
    let mut text = HEAD.to_string();
    for (at, form) in forms.enumerate() {
        writeln!(text, ".entry k{at}()\n{{").expect("a string");
        for (k, (_, bits)) in form.sources().iter().enumerate() {
            writeln!(text, "{} s{k};", declaration(*bits)).expect("a string");
        }
        writeln!(text, "{}\nret;\n}}", form.statement()).expect("a string");
    }
    text
}

/// Forms that the ISA lacks have to be refused when a kernel is bound.
fn check_refused(forms: &[Form]) {
    let device = device();
    for forms in forms.chunks(AT_ONCE) {
        let module = device.load(&kernels(forms.iter())).expect("loads");
        for (at, form) in forms.iter().enumerate() {
            let kernel = module.kernel(&format!("k{at}"));
            assert!(kernel.is_err(), "{} is not in the ISA", form.text());
        }
    }
}

/// The first form that is refused, for the message.
fn first_refused(forms: &[(Form, Model)]) -> String {
    let device = device();
    let module = device.load(&kernels(forms.iter().map(|(form, _)| form)));
    let module = module.expect("loads");
    let refused = (0..forms.len()).find(|at| module.kernel(&format!("k{at}")).is_err());
    refused.map_or(String::new(), |at| forms[at].0.text())
}
