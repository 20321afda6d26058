//! Compares instructions with what the vendor's headers compute on the host.
//!
//! `cargo run --release -p ptx-emulator --example oracles -- INCLUDE..` needs `g++`, and the folders that have `cuda_fp16.h`,
//! `cuda_bf16.h` and `cuda_fp8.h` (without arguments, those that `scripts/setup-nvcc.sh` has made). It fails at the first
//! result that differs. NaNs are equal to each other.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use ptx_emulator::{Config, Emulator, Gpu, LaunchConfig};

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ty {
    F16,
    Bf16,
    F32,
    F64,
    /// Two bytes of an eight-bit format, of which the lower one counts.
    Pair,
    /// Any integer of this many bits.
    Int(u32),
}

use Ty::*;

impl Ty {
    fn bits(self) -> u32 {
        match self {
            F16 | Bf16 | Pair => 16,
            F32 => 32,
            F64 => 64,
            Int(bits) => bits,
        }
    }

    fn is_nan(self, word: u64) -> bool {
        match self {
            F16 => word & 0x7fff > 0x7c00,
            Bf16 => word & 0x7fff > 0x7f80,
            F32 => f32::from_bits(word as u32).is_nan(),
            F64 => f64::from_bits(word).is_nan(),
            Pair | Int(_) => false,
        }
    }
}

/// A function of the headers, the instruction that does it, and the types of result and arguments. The instruction
/// has its result in `%d` and its arguments in `%a` and `%b`.
type Row = (&'static str, &'static str, Ty, &'static [Ty]);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("half2float", "cvt.f32.f16 %d, %a;", F32, &[F16]),
    ("float2half_rn", "cvt.rn.f16.f32 %d, %a;", F16, &[F32]),
    ("float2half_rz", "cvt.rz.f16.f32 %d, %a;", F16, &[F32]),
    ("float2half_rd", "cvt.rm.f16.f32 %d, %a;", F16, &[F32]),
    ("float2half_ru", "cvt.rp.f16.f32 %d, %a;", F16, &[F32]),
    ("double2half", "cvt.rn.f16.f64 %d, %a;", F16, &[F64]),
    ("bf2float", "cvt.f32.bf16 %d, %a;", F32, &[Bf16]),
    ("float2bf_rn", "cvt.rn.bf16.f32 %d, %a;", Bf16, &[F32]),
    ("float2bf_rz", "cvt.rz.bf16.f32 %d, %a;", Bf16, &[F32]),
    ("double2bf", "cvt.rn.bf16.f64 %d, %a;", Bf16, &[F64]),
    ("half2int_rz", "cvt.rzi.s32.f16 %d, %a;", Int(32), &[F16]),
    ("half2uint_rz", "cvt.rzi.u32.f16 %d, %a;", Int(32), &[F16]),
    ("half2ll_rz", "cvt.rzi.s64.f16 %d, %a;", Int(64), &[F16]),
    ("half2ull_rz", "cvt.rzi.u64.f16 %d, %a;", Int(64), &[F16]),
    ("half2short_rz", "cvt.rzi.s16.f16 %d, %a;", Int(16), &[F16]),
    ("half2ushort_rz", "cvt.rzi.u16.f16 %d, %a;", Int(16), &[F16]),
    ("int2half_rn", "cvt.rn.f16.s32 %d, %a;", F16, &[Int(32)]),
    ("uint2half_rn", "cvt.rn.f16.u32 %d, %a;", F16, &[Int(32)]),
    ("ll2half_rn", "cvt.rn.f16.s64 %d, %a;", F16, &[Int(64)]),
    ("ull2half_rn", "cvt.rn.f16.u64 %d, %a;", F16, &[Int(64)]),
    ("float2e4m3", "cvt.rn.satfinite.e4m3x2.f32 %d, 0f3F800000, %a;", Pair, &[F32]),
    ("float2e5m2", "cvt.rn.satfinite.e5m2x2.f32 %d, 0f3F800000, %a;", Pair, &[F32]),
    ("half2e4m3", "mov.b32 %w, {%a, %a}; cvt.rn.satfinite.e4m3x2.f16x2 %d, %w;", Pair, &[F16]),
    ("half2e5m2", "mov.b32 %w, {%a, %a}; cvt.rn.satfinite.e5m2x2.f16x2 %d, %w;", Pair, &[F16]),
    ("e4m32half", "cvt.rn.f16x2.e4m3x2 %w, %a; mov.b32 {%d, %h}, %w;", F16, &[Int(8)]),
    ("e5m22half", "cvt.rn.f16x2.e5m2x2 %w, %a; mov.b32 {%d, %h}, %w;", F16, &[Int(8)]),
    ("hadd", "add.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("hsub", "sub.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("hmul", "mul.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("hmax", "max.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("hmin", "min.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("hmax_nan", "max.NaN.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("hmin_nan", "min.NaN.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("badd", "add.bf16 %d, %a, %b;", Bf16, &[Bf16, Bf16]),
    ("bsub", "sub.bf16 %d, %a, %b;", Bf16, &[Bf16, Bf16]),
    ("bmul", "mul.bf16 %d, %a, %b;", Bf16, &[Bf16, Bf16]),
    ("bmax", "max.bf16 %d, %a, %b;", Bf16, &[Bf16, Bf16]),
    ("bmin_nan", "min.NaN.bf16 %d, %a, %b;", Bf16, &[Bf16, Bf16]),
];

/// Instructions that do something else, which has to be noticed.
#[rustfmt::skip]
const PLANTED: &[Row] = &[
    ("float2half_rn", "cvt.rz.f16.f32 %d, %a;", F16, &[F32]),
    ("double2half", "cvt.rn.f32.f64 %w, %a; cvt.rn.f16.f32 %d, %w;", F16, &[F64]),
    ("half2int_rz", "cvt.rni.s32.f16 %d, %a;", Int(32), &[F16]),
    ("float2e4m3", "cvt.rn.satfinite.e5m2x2.f32 %d, 0f3F800000, %a;", Pair, &[F32]),
    ("hmax_nan", "max.f16 %d, %a, %b;", F16, &[F16, F16]),
    ("hsub", "sub.f16 %d, %b, %a;", F16, &[F16, F16]),
];

/// Threads of a launch, and pairs of arguments.
const SAMPLES: usize = 1 << 18;

/// Random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Numbers of a type: often such that a narrow format holds them, or almost, or has to round in the middle.
    fn number(&mut self, ty: Ty) -> u64 {
        let any = self.next();
        match ty {
            F32 | F64 if any & 3 != 0 => {
                let half = half::f16::from_bits(self.next() as u16).to_f64();
                let scale = f64::from_bits((1023 + self.next() % 60).wrapping_sub(30) << 52);
                let near = match any >> 2 & 7 {
                    0 => half,
                    1 => half * scale,
                    // Halfway to the next one, and beside it.
                    n => {
                        let tie = half * (1.0 + f64::from_bits((1023 - 7 - (any >> 8 & 7)) << 52));
                        let step = [0, 1, u64::MAX, 1 << 29, (1u64 << 29).wrapping_neg(), 0]
                            [n as usize - 2];
                        f64::from_bits(tie.to_bits().wrapping_add(step))
                    }
                };
                if ty == F32 {
                    u64::from((near as f32).to_bits())
                } else {
                    near.to_bits()
                }
            }
            Int(bits) if bits > 16 => any >> (self.next() % u64::from(bits)) as u32 & mask(bits),
            ty => any & mask(ty.bits()),
        }
    }
}

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// Arguments of a row, one after the other: all there are of small types.
fn arguments(types: &[Ty], random: &mut Random) -> Vec<u64> {
    if let [ty] = types
        && ty.bits() <= 16
    {
        return (0..1 << ty.bits()).collect();
    }
    (0..SAMPLES)
        .flat_map(|_| {
            types
                .iter()
                .map(|ty| random.number(*ty))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// What the emulator makes of them.
fn emulated(row: &Row, arguments: &[u64]) -> Result<Vec<u64>, Box<dyn std::error::Error>> {
    let (_, text, result, types) = row;
    let class = |ty: &Ty| ty.bits().max(16);
    let count = arguments.len() / types.len();
    let loads: String = types
        .iter()
        .zip(["%a", "%b"])
        .enumerate()
        .map(|(n, (ty, name))| {
            let bits = ty.bits();
            format!(
                ".reg .b{} {name}; ld.global.b{bits} {name}, [%in+{}];\n",
                class(ty),
                8 * n
            )
        })
        .collect();
    let ptx = format!(
        ".version 8.5\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .b64 %out, %in, %at; .reg .b32 %t, %c, %w; .reg .b16 %h; .reg .b{} %d;\n\
         ld.param.u64 %out, [out]; ld.param.u64 %in, [in]; mov.u32 %t, %tid.x; mov.u32 %c, %ctaid.x;\n\
         mad.lo.u32 %t, %c, 256, %t; mul.wide.u32 %at, %t, 8; add.u64 %out, %out, %at;\n\
         mul.wide.u32 %at, %t, {}; add.u64 %in, %in, %at;\n{loads}{text}\nst.global.b{} [%out], %d;\nret;\n}}\n",
        class(result),
        8 * types.len(),
        result.bits(),
    );
    let device = Emulator::new(Config {
        gpu: Gpu::H100,
        ..Config::default()
    });
    let (out, input) = (
        device.alloc(8 * count as u64)?,
        device.alloc(8 * arguments.len() as u64)?,
    );
    device.fill(out, 0, 8 * count as u64)?;
    device.write(input, &bytes(arguments))?;
    let kernel = device.load(&ptx)?.kernel("k")?;
    let config = LaunchConfig {
        grid: [count as u32 / 256, 1, 1],
        block: [256, 1, 1],
        dynamic_smem: 0,
    };
    device.launch(
        &kernel,
        &config,
        &[&out.to_le_bytes(), &input.to_le_bytes()],
    )?;
    let mut results = vec![0; 8 * count];
    device.read(out, &mut results)?;
    Ok(words(&results))
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| {
        chunk
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    bytes.chunks_exact(8).map(word).collect()
}

/// What the headers make of them.
fn expected(program: &Path, row: &Row, arguments: &[u64]) -> std::io::Result<Vec<u64>> {
    let mut child = Command::new(program)
        .args([row.0, &row.3.len().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let input = bytes(arguments);
    let writer = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
    let mut results = Vec::new();
    if let Some(mut stdout) = stdout {
        stdout.read_to_end(&mut results)?;
    }
    let _ = writer.join();
    child.wait()?;
    Ok(words(&results))
}

/// Compares one row; the number of results.
fn compare(
    program: &Path,
    row: &Row,
    random: &mut Random,
) -> Result<usize, Box<dyn std::error::Error>> {
    let arguments = arguments(row.3, random);
    let (got, wanted) = (
        emulated(row, &arguments)?,
        expected(program, row, &arguments)?,
    );
    let result = row.2;
    let kept = if result == Pair {
        0xff
    } else {
        mask(result.bits())
    };
    if got.len() != wanted.len() {
        return Err(format!(
            "{}: {} results instead of {}",
            row.0,
            wanted.len(),
            got.len()
        )
        .into());
    }
    for (n, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        let (got, wanted) = (got & kept, wanted & kept);
        if got != wanted && !(result.is_nan(got) && result.is_nan(wanted)) {
            let inputs = &arguments[n * row.3.len()..][..row.3.len()];
            let text = format!(
                "{} ({}) of {inputs:#x?}: {got:#x}, by the headers {wanted:#x}",
                row.1, row.0
            );
            return Err(text.into());
        }
    }
    Ok(got.len())
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut includes: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    if includes.is_empty() {
        includes.push(here.join("../.tools/cuda/nvidia/cu13/include"));
    }
    let folder = std::env::temp_dir().join(format!("ptx-emulator-oracles-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let program = folder.join("oracle");
    let mut compiler = Command::new("g++");
    compiler
        .args(["-O1", "-std=c++17", "-w", "-o"])
        .arg(&program)
        .arg(here.join("examples/oracles/oracle.cpp"));
    for include in &includes {
        compiler.arg("-I").arg(include);
    }
    if !compiler.status()?.success() {
        return Err("g++ does not compile the headers: name the folders that hold them".into());
    }
    let mut random = Random(0x0c0f_fee0);
    let mut total = 0;
    let mut failures = Vec::new();
    for row in ROWS {
        match compare(&program, row, &mut random) {
            Ok(count) => total += count,
            Err(error) => failures.push(error.to_string()),
        }
    }
    for row in PLANTED {
        if compare(&program, row, &mut random).is_ok() {
            failures.push(format!("{} goes unnoticed in place of {}", row.1, row.0));
        }
    }
    std::fs::remove_dir_all(&folder)?;
    if failures.is_empty() {
        println!(
            "{} instructions, {total} results: all as the headers have them",
            ROWS.len()
        );
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
