//! The GPU backends through a CUDA driver: that of the emulator, which checks every launch.
//!
//! Not part of a plain `cargo test`, since it needs that driver in the way of the loader:
//!
//!     LD_LIBRARY_PATH="$(scripts/emulated-libcuda.sh)/lib64" cargo test --test driver
//!
//! and for both backends `--all-features`, as `.ci/run` does. `docs/libcuda.md` describes the driver.
#![cfg(all(feature = "emulator", any(feature = "cudarc", feature = "cust")))]

mod alone;
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "cudarc")]
mod cudarc_memory;
#[cfg(feature = "cust")]
mod cust_memory;
mod driver_errors;
#[cfg(feature = "cudarc")]
mod graphs;
mod kv;
#[cfg(feature = "cudarc")]
mod mla_graph;
#[cfg(feature = "cudarc")]
mod moe_graph;
mod smoke;
#[cfg(feature = "cudarc")]
mod step;

use infer_kernels::{BackendKind, Device};

/// The backends of this build.
const BACKENDS: &[&str] = &[
    #[cfg(feature = "cudarc")]
    "cudarc",
    #[cfg(feature = "cust")]
    "cust",
];

/// A device of the emulated driver.
#[track_caller]
fn emulated(name: &str) -> Device {
    let device = Device::named(name).unwrap_or_else(|error| {
        panic!("{error}\nrun this with LD_LIBRARY_PATH as tests/driver/main.rs says")
    });
    assert!(device.kind() != BackendKind::Emulator);
    assert!(
        device.name().starts_with("Emulated "),
        "these tests break rules on purpose and want the emulated driver, not {device}"
    );
    device
}
