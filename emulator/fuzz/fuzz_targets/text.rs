//! Any text: parsed, bound, and run if that goes well. Texts are changed by bytes, and by lines and
//! words, since most changes of single bytes end in the lexer.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};
use ptx_emulator::{Config, Emulator, Gpu, LaunchConfig, LaunchError};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Corpus::Reject;
    };
    let config = Config {
        gpu: Gpu::B200,
        threads: 1,
        budget: 2000,
        ..Config::default()
    };
    let device = Emulator::new(config);
    let Ok(module) = device.load(text) else {
        return Corpus::Keep;
    };
    for name in module.kernels() {
        let Ok(kernel) = module.kernel(name) else {
            continue;
        };
        let buffer = device.alloc(4096).expect("there is memory").to_le_bytes();
        let params: Vec<Vec<u8>> = kernel
            .info()
            .params
            .iter()
            .map(|param| {
                buffer
                    .iter()
                    .copied()
                    .cycle()
                    .take(param.size as usize)
                    .collect()
            })
            .collect();
        let params: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
        let shape = LaunchConfig {
            grid: [2, 1, 1],
            block: [40, 1, 1],
            dynamic_smem: 1024,
        };
        if let Err(LaunchError::Internal(error)) = device.launch(&kernel, &shape, &params) {
            panic!("{error}");
        }
    }
    Corpus::Keep
});

/// Tokens that stand for their kind.
const WORDS: &[&str] = &[
    "0",
    "1",
    "-1",
    "31",
    "4294967296",
    "0xffffffffffffffff",
    "-9223372036854775808",
    "0f7fc00000",
    "0d7ff0000000000000",
    "%tid.x",
    "%laneid",
    ".b8",
    ".u64",
    ".f16x2",
    ".pred",
    ".v4",
    ".global",
    ".shared",
    ".local",
    ".const",
    ".param",
    ".align",
    ".entry",
    ".func",
    ".reg",
    ".extern",
    ".weak",
    ".version",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ";",
    ",",
    ":",
    "@",
    "!",
    "|",
    "+",
    "<",
    ">",
    "mov.b32",
    "call",
    "bra",
    "ret",
    "st.u32",
    "ld.u8",
    ".branchtargets",
    ".loc",
    ".file",
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = SmallRng::seed_from_u64(u64::from(seed));
    let Ok(text) = std::str::from_utf8(&data[..size]) else {
        return fuzzer_mutate(data, size, max_size);
    };
    if random.random_range(0..3) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return fuzzer_mutate(data, size, max_size);
    }
    for _ in 0..random.random_range(1..4) {
        let (at, other) = (
            random.random_range(0..lines.len()),
            random.random_range(0..lines.len()),
        );
        match random.random_range(0..6) {
            0 if lines.len() > 1 => {
                lines.remove(at);
            }
            1 => lines.insert(at, lines[other].clone()),
            2 => lines.swap(at, other),
            _ => lines[at] = change_word(&lines[at], &lines[other], &mut random),
        }
        if lines.is_empty() {
            break;
        }
    }
    store(&lines.join("\n"), data, max_size)
});

fuzz_crossover!(|a: &[u8], b: &[u8], out: &mut [u8], seed: u32| {
    let mut random = SmallRng::seed_from_u64(u64::from(seed));
    let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
    let mut lines: Vec<&str> = a.lines().collect();
    let others: Vec<&str> = b.lines().collect();
    if !others.is_empty() {
        let first = random.random_range(0..others.len());
        let end = (first + random.random_range(1..8)).min(others.len());
        let at = random.random_range(0..=lines.len());
        lines.splice(at..at, others[first..end].iter().copied());
    }
    let max_size = out.len();
    store(&lines.join("\n"), out, max_size)
});

/// Writes as much of a text as there is room for.
fn store(text: &str, data: &mut [u8], max_size: usize) -> usize {
    let size = text.len().min(max_size).min(data.len());
    data[..size].copy_from_slice(&text.as_bytes()[..size]);
    size
}

/// Replaces, removes or repeats one token of a line; new ones come from another line or the list.
fn change_word(line: &str, other: &str, random: &mut SmallRng) -> String {
    let mut words = split(line);
    if words.is_empty() {
        return WORDS[random.random_range(0..WORDS.len())].to_string();
    }
    let at = random.random_range(0..words.len());
    let others = split(other);
    match random.random_range(0..4) {
        0 => {
            words.remove(at);
        }
        1 => words.insert(at, words[at]),
        2 if !others.is_empty() => words[at] = others[random.random_range(0..others.len())],
        _ => words[at] = WORDS[random.random_range(0..WORDS.len())],
    }
    words.concat()
}

/// Names with their dots and signs, and everything else character by character.
fn split(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let named = |c: char| c.is_alphanumeric() || c == '_' || c == '%' || c == '$';
        let len = match rest[first.len_utf8()..].find(|c| !named(c)) {
            Some(len) if named(first) || first == '.' => first.len_utf8() + len,
            None if named(first) || first == '.' => rest.len(),
            _ => first.len_utf8(),
        };
        let (word, tail) = rest.split_at(len);
        words.push(word);
        rest = tail;
    }
    words
}
