//! `ptxrun list`.

use std::path::Path;

use ptx_emulator::{Config, Emulator, Gpu, parse};

use crate::Failure;
use crate::run::read;

/// Prints what a file holds. What does not load is no failure of the list.
pub fn list(file: &Path, gpu: Gpu) -> Result<(), Failure> {
    let text = read(file)?;
    let parsed = parse::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let (major, minor) = parsed.version;
    println!("PTX {major}.{minor} for {}", parsed.target.join(", "));
    let config = Config {
        gpu,
        ..Config::default()
    };
    let module = Emulator::new(config)
        .load(&text)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    for variable in &parsed.variables {
        if let Some((_, bytes)) = module.symbol(&variable.name) {
            println!("variable {}: {bytes} bytes", variable.name);
        }
    }
    for name in module.kernels() {
        let kernel = match module.kernel(name) {
            Ok(kernel) => kernel,
            Err(error) => {
                println!("\n{name}\n  does not load: {error}");
                continue;
            }
        };
        let info = kernel.info();
        println!("\n{name}");
        for (index, param) in info.params.iter().enumerate() {
            let (size, offset) = (param.size, param.offset);
            println!(
                "  parameter {index}: {} ({size} bytes at offset {offset})",
                param.name
            );
        }
        println!(
            "  shared memory: {} bytes, local: {} bytes a thread",
            info.static_shared, info.local_bytes
        );
        match (info.required_block, info.max_threads) {
            (Some(block), _) => println!("  block: {block:?} (.reqntid)"),
            (None, Some(threads)) => println!("  threads: at most {threads} (.maxntid)"),
            (None, None) => (),
        }
    }
    Ok(())
}
