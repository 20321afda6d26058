//! The CUDA driver API on `ptx-emulator`: a `libcuda.so.1` that needs no GPU.
//!
//! Programs that use the driver API, such as those on the crates cudarc and cust, run unchanged on
//! it; `docs/libcuda.md` says how, and what is not there.
//!
//! `api` exports the functions, a file for each area, each function a few lines over the safe core
//! beside it: `driver` (the state and its handles), `context`, `module`, `memory`, `stream` with
//! `work`, `event`, `capture` and `graph`, `launch`, `occupancy`. Unsafe code is in `abi` and `host`
//! only: reading and writing what the C caller points to.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "the C boundary")]
mod abi;
#[allow(unsafe_code, reason = "exported names")]
mod api;
mod capture;
mod context;
mod driver;
mod error;
mod event;
mod graph;
#[allow(unsafe_code, reason = "the program's memory")]
mod host;
mod launch;
mod memory;
mod module;
mod occupancy;
mod settings;
mod stream;
mod work;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Says something to whoever runs the program.
fn say(message: &str) {
    eprintln!("ptx-emulator: {message}");
}

/// As [`say`], but each message once.
fn say_once(message: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert(message.to_string()) {
        say(message);
    }
}
