//! The goals: checked arithmetic at 100 M warp instructions a second, `mma` m16n8k16 in 250 ns, an access
//! to shared memory with its race check in 120 ns, 1 MB of PTX loaded in 0.3 s, two threads 1.8 times as
//! fast as one, and attention (8 heads of 1024 tokens, 128 wide, causal, `f16`) in 0.5 s without checks
//! and 1.0 s with all. The attention kernel is that of `infer-kernels`, whose repository this is.

use criterion::{Criterion, Throughput};
use ptx_emulator::{Checks, Config, Emulator, Kernel, LaunchConfig};

use crate::cpu_time::CpuTime;

/// Times that a loop goes round.
const ROUNDS: u64 = 200;
/// Blocks of a launch, of 4 warps each.
const BLOCKS: u64 = 16;
const WARPS: u64 = 4 * BLOCKS;

const MMA: &str = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r10,%r11,%r12,%r13}, {%r14,%r15}, {%f0,%f1,%f2,%f3};";

/// A loop around a body, with 16 bytes of shared memory per thread at `%r2` and 4 at `%r3`.
fn kernel(device: &Emulator, body: &str) -> Kernel {
    let zeros: String = (10..20).map(|n| format!("mov.u32 %r{n}, {n};")).collect();
    let ptx = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{
         .shared .align 128 .b8 s[8192]; .reg .b32 %r<40>; .reg .f32 %f<8>; .reg .pred %p<4>; {zeros}
         mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
         mov.u32 %r1, %tid.x; mov.u32 %r4, s; mad.lo.u32 %r2, %r1, 16, %r4; mad.lo.u32 %r3, %r1, 4, %r4;
         st.shared.v4.u32 [%r2], {{%r10, %r11, %r12, %r13}}; bar.sync 0; mov.u32 %r5, 0;
         L: {body} add.u32 %r5, %r5, 1; setp.lt.u32 %p0, %r5, {ROUNDS}; @%p0 bra L; ret; }}"
    );
    let kernel = device.load(&ptx).and_then(|module| module.kernel("k"));
    kernel.unwrap_or_else(|error| panic!("{error}"))
}

fn device(threads: usize) -> Emulator {
    Emulator::new(Config {
        threads,
        ..Config::default()
    })
}

fn run(device: &Emulator, kernel: &Kernel) {
    let shape = LaunchConfig {
        grid: [BLOCKS as u32, 1, 1],
        block: [128, 1, 1],
        dynamic_smem: 0,
    };
    let result = device.launch(kernel, &shape, &[]);
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Name, body, and how many instructions of it are counted: all, or those that the goal is about.
fn cases() -> Vec<(&'static str, String, u64)> {
    let arithmetic = "add.s32 %r10, %r10, %r11; mad.lo.s32 %r12, %r10, %r11, %r12; xor.b32 %r13, %r12, %r10; shl.b32 %r14, %r13, 3;
        lop3.b32 %r15, %r10, %r12, %r14, 0x96; fma.rn.f32 %f0, %f1, %f2, %f0; add.f32 %f3, %f0, %f1; max.f32 %f1, %f3, %f2;";
    let repeat = |text: &str| text.repeat(8);
    let u32 = "st.shared.u32 [%r3], %r10; bar.warp.sync -1; ld.shared.u32 %r16, [%r3];";
    let v4 = "st.shared.v4.u32 [%r2], {%r10, %r11, %r12, %r13}; bar.warp.sync -1; ld.shared.v4.u32 {%r16, %r17, %r18, %r19}, [%r2];";
    let matrix = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r16, %r17, %r18, %r19}, [%r2];";
    vec![
        ("checked-alu", repeat(arithmetic), 64 + 3),
        ("mma-m16n8k16-f16", repeat(MMA), 8),
        ("shared-u32", repeat(u32), 16),
        ("shared-v4", repeat(v4), 16),
        ("ldmatrix-x4", repeat(matrix), 8),
    ]
}

pub fn goals(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("goals");
    let device = device(1);
    for (name, body, counted) in cases() {
        let kernel = kernel(&device, &body);
        group.throughput(Throughput::Elements(counted * ROUNDS * WARPS));
        group.bench_function(name, |bencher| bencher.iter(|| run(&device, &kernel)));
    }
    let text = megabyte();
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("load-1MB", |bencher| {
        bencher.iter(|| {
            let module = device.load(&text).unwrap_or_else(|error| panic!("{error}"));
            module
                .kernel("k7")
                .unwrap_or_else(|error| panic!("{error}"))
        });
    });
    for (name, checks) in [
        ("attention-unchecked", Checks::NONE),
        ("attention-checked", Checks::ALL),
    ] {
        if let Some(attention) = Attention::new(checks) {
            group.throughput(Throughput::Elements(1));
            group.bench_function(name, |bencher| bencher.iter(|| attention.run()));
        }
    }
    group.finish();
}

/// A launch of causal attention.
struct Attention {
    device: Emulator,
    kernel: Kernel,
    params: Vec<u8>,
}

impl Attention {
    const TOKENS: u32 = 1024;
    const HEADS: u32 = 8;
    const DIM: u32 = 128;

    /// `None` where the kernel's text is not there, as in the published crate.
    fn new(checks: Checks) -> Option<Attention> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../ptx/sm_80/prefill_f16_d128.ptx"
        );
        let text = std::fs::read_to_string(path).ok()?;
        let device = Emulator::new(Config {
            checks,
            ..device(1).config().clone()
        });
        let kernel = device
            .load(&text)
            .and_then(|module| module.kernel("prefill_f16_d128"));
        let kernel = kernel.unwrap_or_else(|error| panic!("{error}"));
        let upload = |bytes: &[u8]| {
            let at = device
                .alloc(bytes.len() as u64)
                .unwrap_or_else(|error| panic!("{error}"));
            device
                .write(at, bytes)
                .unwrap_or_else(|error| panic!("{error}"));
            at
        };
        // Halves from 1/16 to 1/8, in no order.
        let elements = Self::TOKENS * Self::HEADS * Self::DIM;
        let half = |n: u32| (0x2c00 | (n.wrapping_mul(2_654_435_761) >> 22) as u16).to_le_bytes();
        let operand = || upload(&(0..elements).flat_map(half).collect::<Vec<_>>());
        let lengths: Vec<u8> = [0, Self::TOKENS]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let lengths = upload(&lengths);
        let pointers = [
            operand(),
            operand(),
            operand(),
            operand(),
            0,
            lengths,
            lengths,
            upload(&[0; 64]),
        ];
        let (token, head) = (u64::from(Self::HEADS * Self::DIM), u64::from(Self::DIM));
        let strides = [token, head, token, head, token, head, token, head, 0];
        let counts = [
            1,
            Self::HEADS,
            Self::HEADS,
            Self::TOKENS,
            Self::TOKENS,
            Self::TOKENS,
            1,
        ];
        let scale = std::f32::consts::LOG2_E / (Self::DIM as f32).sqrt();
        let mut params: Vec<u8> = pointers
            .iter()
            .chain(&strides)
            .flat_map(|n| n.to_le_bytes())
            .collect();
        params.extend(counts.iter().flat_map(|n| n.to_le_bytes()));
        params.extend(scale.to_le_bytes());
        // Pages, biases, masks and their strides: none; a page is one key then.
        params.extend([0; 11 * 8]);
        let page: [u32; 4] = [1, u32::MAX, 0, 0];
        let dims = [Self::DIM; 2];
        let window = [u32::MAX; 2];
        let softcap = [0; 2];
        let rest = page.iter().chain(&dims).chain(&window).chain(&softcap);
        params.extend(rest.flat_map(|n| n.to_le_bytes()));
        Some(Attention {
            device,
            kernel,
            params,
        })
    }

    fn run(&self) {
        let shape = LaunchConfig {
            grid: [Self::TOKENS / 128, Self::HEADS, 1],
            block: [128, 1, 1],
            dynamic_smem: 65552,
        };
        let result = self.device.launch(&self.kernel, &shape, &[&self.params]);
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A megabyte of text: kernels of a thousand lines.
fn megabyte() -> String {
    let mut text = ".version 7.8\n.target sm_80\n.address_size 64\n".to_string();
    for number in 0.. {
        if text.len() >= 1 << 20 {
            break;
        }
        text += &format!(
            ".visible .entry k{number}(.param .u64 p)\n{{\n\t.reg .b32 \t%r<1000>;\n\t.reg .b64 \t%rd<9>;\n\tld.param.u64 \t%rd1, [p];\n\tld.global.u32 \t%r1, [%rd1];\n"
        );
        for line in 2..1000 {
            let before = line - 1;
            text += &format!("\tmad.lo.s32 \t%r{line}, %r{before}, %r1, {line};\n");
        }
        text += "\tst.global.u32 \t[%rd1+4], %r999;\n\tret;\n}\n";
    }
    text
}

/// One thread and two, by the clock on the wall.
pub fn threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("threads");
    for threads in [1, 2] {
        let device = Emulator::new(Config {
            checks: Checks::ALL,
            ..device(threads).config().clone()
        });
        let kernel = kernel(&device, &MMA.repeat(8));
        group.bench_function(threads.to_string(), |bencher| {
            bencher.iter(|| run(&device, &kernel));
        });
    }
    group.finish();
}
