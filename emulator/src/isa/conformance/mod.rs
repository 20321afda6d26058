//! Every arithmetic row against the ISA's text, run through the whole machine.
//!
//! A test names an instruction with registers called as compilers call them (`%rs` 16 bits, `%r`
//! 32, `%rd` 64, `%p` predicates) and gives the raw bits of its sources for any number of threads;
//! it gets the raw bits of the destinations back. The first operand holds the destinations.

mod bits;
mod compare;
mod convert;
mod float;
mod forms;
mod half;
mod integer;

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::ast::{Operand, Statement};
use crate::{Checks, Config, Emulator, Gpu, LaunchConfig, LaunchError};

const BLOCK: usize = 128;

/// Runs `text` once per row of `sources`; `sources[k]` are the values of source `k`.
fn try_run(text: &str, sources: &[Vec<u64>]) -> Result<Vec<Vec<u64>>, LaunchError> {
    let config = Config {
        gpu: Gpu::H100,
        checks: Checks::ALL,
        threads: 1,
        ..Config::default()
    };
    run_with(config, text, sources)
}

/// As [`try_run`], on a device of one's own.
pub(super) fn run_with(
    config: Config,
    text: &str,
    sources: &[Vec<u64>],
) -> Result<Vec<Vec<u64>>, LaunchError> {
    let (outputs, inputs) = registers(text);
    assert_eq!(inputs.len(), sources.len(), "{text}");
    let count = sources.iter().map(Vec::len).max().unwrap_or(1);
    let padded = count.next_multiple_of(BLOCK);
    let device = Emulator::new(config);
    let module = device
        .load(&kernel(text, &outputs, &inputs, padded))
        .expect("loads");
    let mut bytes = Vec::with_capacity(sources.len() * padded * 8);
    for source in sources {
        assert_eq!(source.len(), count, "{text}");
        let last = source.last().copied().unwrap_or(0);
        let values = source.iter().copied().chain(std::iter::repeat(last));
        bytes.extend(values.take(padded).flat_map(u64::to_le_bytes));
    }
    let memory = |bytes: usize| device.alloc(bytes.max(8) as u64).expect("memory");
    let (input, output) = (memory(bytes.len()), memory(outputs.len() * padded * 8));
    device.write(input, &bytes).expect("in bounds");
    let grid = [(padded / BLOCK) as u32, 1, 1];
    let config = LaunchConfig {
        grid,
        block: [BLOCK as u32, 1, 1],
        dynamic_smem: 0,
    };
    let params = [output.to_le_bytes(), input.to_le_bytes()];
    let kernel = module
        .kernel("k")
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    device.launch(&kernel, &config, &[&params[0], &params[1]])?;
    let mut bytes = vec![0; outputs.len() * padded * 8];
    device.read(output, &mut bytes).expect("in bounds");
    let column = |bytes: &[u8]| {
        let values = bytes.chunks_exact(8).take(count);
        values
            .map(|value| u64::from_le_bytes(value.try_into().expect("8 bytes")))
            .collect()
    };
    Ok(bytes.chunks_exact(padded * 8).map(column).collect())
}

/// [`try_run`] where no fault is expected.
fn run(text: &str, sources: &[Vec<u64>]) -> Vec<Vec<u64>> {
    try_run(text, sources).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// One thread: the first destination.
fn once(text: &str, sources: &[u64]) -> u64 {
    run(
        text,
        &sources
            .iter()
            .map(|source| vec![*source])
            .collect::<Vec<_>>(),
    )[0][0]
}

/// All threads: the first destination against a function of the sources.
fn check(text: &str, sources: &[Vec<u64>], expected: impl Fn(&[u64]) -> u64) {
    let results = run(text, sources);
    for (row, result) in results[0].iter().enumerate() {
        let inputs: Vec<u64> = sources.iter().map(|source| source[row]).collect();
        let expected = expected(&inputs);
        assert_eq!(
            *result, expected,
            "{text} on {inputs:x?}: {result:#x} for {expected:#x}"
        );
    }
}

/// Names of the destinations and of the sources, in order of the text.
fn registers(text: &str) -> (Vec<String>, Vec<String>) {
    let source = format!(".version 8.5\n.target sm_90\n.entry k() {{ {text} }}");
    let mut module = crate::parse::parse(&source).expect("parses");
    let body = module.functions.remove(0).body.expect("a body");
    let mut outputs = BTreeSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for statement in body {
        let Statement::Instruction(instruction) = statement else {
            panic!("{text}")
        };
        for (k, operand) in instruction.operands.iter().enumerate() {
            names(operand, &mut |name| {
                if k == 0 && outputs.insert(name.to_string()) {
                    first.push(name.to_string());
                } else if k > 0 && !outputs.contains(name) && !rest.contains(&name.to_string()) {
                    rest.push(name.to_string());
                }
            });
        }
    }
    (first, rest)
}

fn names(operand: &Operand, each: &mut impl FnMut(&str)) {
    match operand {
        Operand::Name { name, .. } => each(name),
        Operand::Pair(a, b) => {
            names(a, each);
            names(b, each);
        }
        Operand::Vector(items) => items.iter().for_each(|item| names(item, each)),
        _ => {}
    }
}

/// A kernel that loads the sources of its thread as 64-bit values, runs `text`, and stores the
/// destinations as such.
fn kernel(text: &str, outputs: &[String], inputs: &[String], padded: usize) -> String {
    let mut ptx = String::from(
        ".version 8.5\n.target sm_90\n.address_size 64\n\
         .entry k(.param .u64 out, .param .u64 in)\n{\n\
         .reg .pred %p<32>;\n.reg .b16 %rs<32>;\n.reg .b32 %r<32>;\n.reg .b64 %rd<32>;\n\
         .reg .b64 out_at, in_at, value;\n.reg .b32 block, thread, at;\n\
         ld.param.u64 out_at, [out];\nld.param.u64 in_at, [in];\n\
         mov.u32 block, %ctaid.x;\nmov.u32 thread, %tid.x;\n",
    );
    writeln!(ptx, "mad.lo.s32 at, block, {BLOCK}, thread;").expect("a string");
    ptx += "mad.wide.u32 out_at, at, 8, out_at;\nmad.wide.u32 in_at, at, 8, in_at;\n";
    for (k, name) in inputs.iter().enumerate() {
        writeln!(ptx, "ld.global.b64 value, [in_at+{}];", k * padded * 8).expect("a string");
        ptx += &match bank(name) {
            "p" => format!("setp.ne.u64 {name}, value, 0;\n"),
            "rs" => format!("cvt.u16.u64 {name}, value;\n"),
            "rd" => format!("mov.b64 {name}, value;\n"),
            _ => format!("cvt.u32.u64 {name}, value;\n"),
        };
    }
    ptx += text;
    for (k, name) in outputs.iter().enumerate() {
        ptx += &match bank(name) {
            "p" => format!("\nselp.u64 value, 1, 0, {name};"),
            "rs" => format!("\ncvt.u64.u16 value, {name};"),
            "rd" => format!("\nmov.b64 value, {name};"),
            _ => format!("\ncvt.u64.u32 value, {name};"),
        };
        writeln!(ptx, "\nst.global.b64 [out_at+{}], value;", k * padded * 8).expect("a string");
    }
    ptx + "ret;\n}\n"
}

fn bank(name: &str) -> &str {
    name.trim_start_matches('%')
        .trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Whether the table has this instruction, on `sm_90`.
fn accepts(text: &str) -> bool {
    let (outputs, inputs) = registers(text);
    let device = Emulator::new(Config {
        gpu: Gpu::H100,
        ..Config::default()
    });
    let module = device
        .load(&kernel(text, &outputs, &inputs, BLOCK))
        .expect("loads");
    module.kernel("k").is_ok()
}

/// Values of `bits` bits: the ends of the ranges, small ones, and others.
fn corners(bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let sign = 1u64 << (bits - 1);
    let mut values = vec![
        0,
        1,
        2,
        3,
        5,
        mask,
        mask - 1,
        sign,
        sign - 1,
        sign + 1,
        0x80,
        0xff,
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for k in 0..20 {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        values.push((state >> 7 & mask) >> (k % 4 * bits / 5));
    }
    values
}

/// All pairs of these, as two columns.
fn pairs(a: &[u64], b: &[u64]) -> Vec<Vec<u64>> {
    let all = || a.iter().flat_map(|x| b.iter().map(move |y| (*x, *y)));
    vec![
        all().map(|(x, _)| x).collect(),
        all().map(|(_, y)| y).collect(),
    ]
}

/// Pairs with a third column.
fn triples(a: &[u64], b: &[u64], c: &[u64]) -> Vec<Vec<u64>> {
    let mut columns = pairs(a, b);
    let rows = columns[0].len();
    let third = (0..rows).map(|row| c[(row * 7 + row / 11) % c.len()]);
    columns.push(third.collect());
    columns
}

/// The register prefix for a width.
fn register(bits: u32) -> &'static str {
    match bits {
        16 => "%rs",
        32 => "%r",
        _ => "%rd",
    }
}

/// Sign-extends the low bits.
fn signed(value: u64, bits: u32) -> i128 {
    i128::from((value << (64 - bits)) as i64 >> (64 - bits))
}
