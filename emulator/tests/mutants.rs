//! Lists the mutants of the instruction table, for `cargo xtask rows`.
#![cfg(ptx_mutation)]

#[test]
fn list() {
    for (at, mutant) in ptx_emulator::mutation::all().iter().enumerate() {
        println!("mutant {at} {} {mutant}", mutant.number);
    }
}
