//! Random programs made of the instruction table: none may make the binder or the machine panic, and
//! none may be the reason of an `EmulatorError`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    ptx_emulator::generate::exercise(bytes);
});
