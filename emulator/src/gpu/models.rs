//! The models.
//!
//! Sources.
//! * Limits: "CUDA C++ Programming Guide", table "Technical Specifications per Compute Capability";
//!   "CUDA Occupancy Calculator" for the units in which registers and shared memory are given out.
//! * Rates: the table "Throughput of Native Arithmetic Instructions", in results per clock and
//!   multiprocessor, of the same guide and, from CUDA 13 on, of the "CUDA C++ Best Practices Guide"; its
//!   rate of halves is halved for pairs. For pairs on 10.0 and 12.0 the newer table has half of what the
//!   older one had, and is followed. `convert` is that of conversions
//!   between integers, which are moves or permutations; the table has a quarter of it for those with
//!   floats of compute capabilities 7.x and 8.x, so a bound of time by conversions is a low one.
//! * Load/store units: the diagrams of a multiprocessor in "NVIDIA Turing GPU Architecture", "NVIDIA
//!   A100 Tensor Core GPU Architecture", "NVIDIA Ampere GA102 GPU Architecture", "NVIDIA Ada GPU
//!   Architecture", "NVIDIA H100 Tensor Core GPU Architecture", "NVIDIA RTX Blackwell GPU Architecture".
//! * Tensor rates: those white papers' peaks without sparsity, divided by multiprocessors and clock; a
//!   test below multiplies them out again.
//! * Clocks, memory, bandwidth, power: the boards' data sheets, and for GeForce the white papers.
//! * L2: 5120 bytes per clock on A100 (its white paper); elsewhere what the multiprocessors' ports of
//!   64 bytes per clock can take, which nothing can exceed.

use super::{Dram, Gpu, Rates, TensorRates};

/// What the models of a compute capability have in common.
struct Family {
    compute_capability: (u32, u32),
    shared_per_block: u32,
    shared_per_sm: u32,
    shared_reserved: u32,
    shared_unit: u32,
    threads_per_sm: u32,
    blocks_per_sm: u32,
    process_nm: u32,
    rates: Rates,
}

const TURING: Family = Family {
    compute_capability: (7, 5),
    shared_per_block: 64 << 10,
    shared_per_sm: 64 << 10,
    shared_reserved: 0,
    shared_unit: 256,
    threads_per_sm: 1024,
    blocks_per_sm: 16,
    process_nm: 12,
    rates: Rates {
        issue: 128,
        int: 64,
        f32: 64,
        f64: 2,
        half2: 64,
        convert: 64,
        special: 16,
        warp: 32,
        memory: 16,
        shared_bytes: 128,
    },
};

const GA100: Family = Family {
    compute_capability: (8, 0),
    shared_per_block: 163 << 10,
    shared_per_sm: 164 << 10,
    shared_reserved: 1024,
    shared_unit: 128,
    threads_per_sm: 2048,
    blocks_per_sm: 32,
    process_nm: 7,
    rates: Rates {
        f64: 32,
        half2: 128,
        memory: 32,
        ..TURING.rates
    },
};

const GA102: Family = Family {
    compute_capability: (8, 6),
    shared_per_block: 99 << 10,
    shared_per_sm: 100 << 10,
    threads_per_sm: 1536,
    blocks_per_sm: 16,
    process_nm: 8,
    rates: Rates {
        f32: 128,
        ..TURING.rates
    },
    ..GA100
};

const ADA: Family = Family {
    compute_capability: (8, 9),
    blocks_per_sm: 24,
    process_nm: 5,
    ..GA102
};

const HOPPER: Family = Family {
    compute_capability: (9, 0),
    shared_per_block: 227 << 10,
    shared_per_sm: 228 << 10,
    process_nm: 5,
    rates: Rates {
        f32: 128,
        f64: 64,
        ..GA100.rates
    },
    ..GA100
};

const BLACKWELL: Family = Family {
    compute_capability: (10, 0),
    rates: Rates {
        half2: 64,
        ..HOPPER.rates
    },
    ..HOPPER
};

const BLACKWELL_RTX: Family = Family {
    compute_capability: (12, 0),
    rates: Rates {
        int: 128,
        ..ADA.rates
    },
    ..ADA
};

/// Multiply-adds per clock of GA102's tensor cores as data-centre boards have them; boards for games
/// accumulate in `f32` at half the rate.
const MID: TensorRates = TensorRates {
    f16_in_f16: 512,
    f16_in_f32: 512,
    tf32: 256,
    f64: 2,
    int8: 1024,
    int4: 2048,
    fp8: 0,
};
const MID_GAMES: TensorRates = TensorRates {
    f16_in_f32: 256,
    tf32: 128,
    ..MID
};
const GREAT: TensorRates = TensorRates {
    f16_in_f16: 2048,
    f16_in_f32: 2048,
    tf32: 1024,
    f64: 128,
    int8: 4096,
    int4: 0,
    fp8: 4096,
};

macro_rules! gpus {
    ($($(#[$doc:meta])* $id:ident: $name:literal, $family:ident, $sms:literal SMs, $clock:literal MHz,
       $memory:literal GiB $dram:ident, $bandwidth:literal GBps, $l2:literal MiB $l2_rate:literal Bpc,
       $watts:literal W, $tensor:expr;)+) => {
        impl Gpu {
            $($(#[$doc])* pub const $id: Gpu = Gpu {
                name: $name,
                compute_capability: $family.compute_capability,
                sms: $sms,
                shared_per_block: $family.shared_per_block,
                shared_per_sm: $family.shared_per_sm,
                shared_reserved: $family.shared_reserved,
                shared_unit: $family.shared_unit,
                registers_per_sm: 64 << 10,
                registers_per_block: 64 << 10,
                registers_per_thread: 255,
                register_unit: 256,
                warp_unit: 4,
                threads_per_sm: $family.threads_per_sm,
                blocks_per_sm: $family.blocks_per_sm,
                memory: $memory << 30,
                dram: Dram::$dram,
                clock_mhz: $clock,
                bandwidth: $bandwidth,
                l2: $l2 << 20,
                l2_bytes_per_clock: $l2_rate,
                rates: $family.rates,
                tensor: $tensor,
                board_watts: $watts,
                process_nm: $family.process_nm,
            };)+

            /// Every model.
            pub const ALL: &'static [Gpu] = &[$(Gpu::$id),+];
        }
    };
}

gpus! {
    /// NVIDIA A100 80GB SXM.
    A100: "A100", GA100, 108 SMs, 1410 MHz, 80 GiB Hbm2e, 2039.0 GBps, 40 MiB 5120 Bpc, 400.0 W,
        TensorRates { f16_in_f16: 1024, f16_in_f32: 1024, tf32: 512, f64: 64, int8: 2048, int4: 4096, fp8: 0 };
    /// NVIDIA A100 40GB SXM.
    A100_40GB: "A100 40GB", GA100, 108 SMs, 1410 MHz, 40 GiB Hbm2, 1555.0 GBps, 40 MiB 5120 Bpc, 400.0 W,
        Gpu::A100.tensor;
    /// NVIDIA T4.
    T4: "T4", TURING, 40 SMs, 1590 MHz, 16 GiB Gddr6, 320.0 GBps, 4 MiB 2560 Bpc, 70.0 W,
        TensorRates { tf32: 0, f64: 0, ..MID };
    /// NVIDIA A10.
    A10: "A10", GA102, 72 SMs, 1695 MHz, 24 GiB Gddr6, 600.0 GBps, 6 MiB 4608 Bpc, 150.0 W, MID;
    /// NVIDIA L4.
    L4: "L4", ADA, 58 SMs, 2040 MHz, 24 GiB Gddr6, 300.0 GBps, 48 MiB 3712 Bpc, 72.0 W,
        TensorRates { fp8: 1024, ..MID };
    /// NVIDIA GeForce RTX 3090.
    RTX_3090: "RTX 3090", GA102, 82 SMs, 1695 MHz, 24 GiB Gddr6x, 936.0 GBps, 6 MiB 5248 Bpc, 350.0 W, MID_GAMES;
    /// NVIDIA GeForce RTX 4090.
    RTX_4090: "RTX 4090", ADA, 128 SMs, 2520 MHz, 24 GiB Gddr6x, 1008.0 GBps, 72 MiB 8192 Bpc, 450.0 W,
        TensorRates { fp8: 512, ..MID_GAMES };
    /// NVIDIA GeForce RTX 5090.
    RTX_5090: "RTX 5090", BLACKWELL_RTX, 170 SMs, 2407 MHz, 32 GiB Gddr7, 1792.0 GBps, 96 MiB 10880 Bpc, 575.0 W,
        TensorRates { fp8: 512, int4: 0, ..MID_GAMES };
    /// NVIDIA H100 80GB SXM.
    H100: "H100", HOPPER, 132 SMs, 1980 MHz, 80 GiB Hbm3, 3350.0 GBps, 50 MiB 8448 Bpc, 700.0 W, GREAT;
    /// NVIDIA H200 SXM.
    H200: "H200", HOPPER, 132 SMs, 1980 MHz, 141 GiB Hbm3e, 4800.0 GBps, 50 MiB 8448 Bpc, 700.0 W, GREAT;
    /// NVIDIA B200 SXM.
    B200: "B200", BLACKWELL, 148 SMs, 1965 MHz, 180 GiB Hbm3e, 7700.0 GBps, 126 MiB 9472 Bpc, 1000.0 W,
        TensorRates { f16_in_f16: 4096, f16_in_f32: 4096, tf32: 2048, f64: 64, int8: 8192, int4: 0, fp8: 8192 };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Teraflops of a rate in multiply-adds per multiprocessor and clock.
    fn tera(gpu: &Gpu, rate: u32) -> f64 {
        2.0 * f64::from(rate) * f64::from(gpu.sms) * gpu.clock_hz() / 1e12
    }

    #[test]
    fn rates_multiply_out_to_the_published_peaks() {
        // Peaks in TFLOPS without sparsity: f32 outside of tensor cores, f16 in f32, tf32, int8, fp8.
        let published = [
            (Gpu::T4, [8.1, 65.0, 0.0, 130.0, 0.0]),
            (Gpu::A100, [19.5, 312.0, 156.0, 624.0, 0.0]),
            (Gpu::A10, [31.2, 125.0, 62.5, 250.0, 0.0]),
            (Gpu::L4, [30.3, 121.0, 60.0, 242.0, 242.0]),
            (Gpu::RTX_3090, [35.6, 71.0, 35.6, 284.0, 0.0]),
            (Gpu::RTX_4090, [82.6, 165.2, 82.6, 660.6, 330.3]),
            (Gpu::RTX_5090, [104.8, 209.5, 104.8, 838.0, 419.0]),
            (Gpu::H100, [66.9, 989.4, 494.7, 1978.9, 1978.9]),
            (Gpu::H200, [66.9, 989.4, 494.7, 1978.9, 1978.9]),
            (Gpu::B200, [75.0, 2250.0, 1125.0, 4500.0, 4500.0]),
        ];
        assert_eq!(published.len() + 1, Gpu::ALL.len(), "A100 40GB is A100");
        for (gpu, peaks) in published {
            let rates = [
                gpu.rates.f32,
                gpu.tensor.f16_in_f32,
                gpu.tensor.tf32,
                gpu.tensor.int8,
                gpu.tensor.fp8,
            ];
            // The peaks of the greatest tensor cores assume a lower clock than the highest.
            let room = if gpu.compute_capability.0 >= 9 && gpu.dram.stacked() {
                1.09
            } else {
                1.03
            };
            for (rate, peak) in rates.into_iter().zip(peaks) {
                let ours = tera(&gpu, rate);
                assert!(
                    ours >= peak * 0.985 && ours <= peak * room,
                    "{}: {ours} TFLOPS, published are {peak}",
                    gpu.name
                );
            }
        }
    }

    #[test]
    fn models_are_consistent() {
        for gpu in Gpu::ALL {
            assert!(gpu.shared_per_block + gpu.shared_reserved <= gpu.shared_per_sm);
            assert!(gpu.l2_bytes_per_clock <= 64 * gpu.sms, "{}", gpu.name);
            assert_eq!(
                gpu.dram.stacked(),
                gpu.bandwidth > 1800.0 || gpu.name.contains("40GB")
            );
            let l2 = f64::from(gpu.l2_bytes_per_clock) * gpu.clock_hz();
            assert!(l2 > 1.5 * gpu.bandwidth * 1e9, "{}", gpu.name);
        }
    }
}
