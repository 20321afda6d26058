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

use std::any::Any;
use std::cell::RefCell;
use std::sync::{PoisonError, RwLock};

use infer_kernels::{BackendKind, Device};

/// The backends of this build.
const BACKENDS: &[&str] = &[
    #[cfg(feature = "cudarc")]
    "cudarc",
    #[cfg(feature = "cust")]
    "cust",
];

/// All tests share a context, and it must not be waited for while a stream captures: tests that
/// capture run alone.
static TURNS: RwLock<()> = RwLock::new(());

thread_local! {
    /// What the test of this thread holds of them, until its thread ends.
    static TURN: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// As [`emulated`], for a test that captures.
#[cfg(feature = "cudarc")]
#[track_caller]
fn emulated_alone(name: &str) -> Device {
    TURN.with_borrow_mut(|turn| {
        *turn = None;
        let alone = TURNS.write().unwrap_or_else(PoisonError::into_inner);
        *turn = Some(Box::new(alone));
    });
    emulated(name)
}

/// A device of the emulated driver.
#[track_caller]
fn emulated(name: &str) -> Device {
    TURN.with_borrow_mut(|turn| {
        turn.get_or_insert_with(|| Box::new(TURNS.read().unwrap_or_else(PoisonError::into_inner)));
    });
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
