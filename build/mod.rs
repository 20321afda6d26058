//! From `cuda/` to PTX: what `build.rs` and `cargo xtask ptx` have in common.
//!
//! [`declaration`] says what to compile, [`sources`] fingerprints what each entry is made from,
//! [`nvcc`] finds the compiler and runs it, [`ship`] turns its output into the text that is
//! shipped, [`info`] reads back what the kernel says about itself, [`manifest`] is the record of all
//! that beside the checked-in text.

pub mod declaration;
pub mod info;
pub mod manifest;
pub mod nvcc;
pub mod ship;
pub mod sources;

/// What went wrong, in words for the person who runs the build.
pub type Result<T> = std::result::Result<T, String>;

/// Reads a file of the project.
pub fn read(path: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Writes a file, with the folders that lead to it.
pub fn write(path: &std::path::Path, text: &str) -> Result<()> {
    path.parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))
}
