//! Is there a driver? Asked without any binding, since bindings panic or do not start without one.

use std::ffi::{c_int, c_uint};
use std::sync::OnceLock;

use libloading::Library;

use super::DeviceError;

/// What the driver says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Driver {
    /// The CUDA release that it belongs to.
    pub release: Version,
    /// How many devices it offers; at least one.
    pub devices: usize,
}

/// Loads the driver, initialises it and counts its devices; the answer does not change while the
/// process runs, so it is remembered.
pub(super) fn driver() -> Result<Driver, DeviceError> {
    static ANSWER: OnceLock<Result<Driver, Absent>> = OnceLock::new();
    ANSWER
        .get_or_init(ask)
        .clone()
        .map_err(|absent| match absent {
            Absent::Driver(reason) => DeviceError::NoDriver { reason },
            Absent::Device(reason) => DeviceError::NoDevice { reason },
        })
}

#[derive(Clone, Debug)]
enum Absent {
    Driver(String),
    Device(String),
}

const NAMES: &[&str] = if cfg!(windows) {
    &["nvcuda.dll"]
} else {
    &["libcuda.so.1", "libcuda.so"]
};

fn ask() -> Result<Driver, Absent> {
    let mut reasons = Vec::new();
    for name in NAMES {
        // SAFETY: Loading the CUDA driver runs its initialisers, which the bindings would run too.
        match unsafe { Library::new(*name) } {
            Ok(library) => {
                // Kept for the rest of the process: the driver does not support being unloaded.
                return question(Box::leak(Box::new(library)));
            }
            Err(error) => reasons.push(full(&error)),
        }
    }
    Err(Absent::Driver(reasons.join("; ")))
}

fn question(library: &'static Library) -> Result<Driver, Absent> {
    type Init = unsafe extern "C" fn(c_uint) -> c_int;
    type GetInt = unsafe extern "C" fn(*mut c_int) -> c_int;
    let missing = |error: libloading::Error| Absent::Driver(full(&error));
    // SAFETY: These three have had these signatures in every release of the driver.
    let (init, version, count) = unsafe {
        (
            library.get::<Init>(b"cuInit\0").map_err(missing)?,
            library
                .get::<GetInt>(b"cuDriverGetVersion\0")
                .map_err(missing)?,
            library
                .get::<GetInt>(b"cuDeviceGetCount\0")
                .map_err(missing)?,
        )
    };
    // SAFETY: `cuInit` takes flags, which must be zero.
    let code = unsafe { init(0) };
    if code != 0 {
        return Err(Absent::Device(format!(
            "cuInit returned {code}{}",
            meaning(code)
        )));
    }
    let ask = |function: &libloading::Symbol<'_, GetInt>| {
        let mut value = 0;
        // SAFETY: Both write one int through the pointer, which is valid for the call.
        let code = unsafe { function(&mut value) };
        (code == 0).then_some(value).ok_or(code)
    };
    let release = ask(&version).unwrap_or(0);
    match ask(&count) {
        Ok(devices) if devices > 0 => Ok(Driver {
            release: ((release / 1000) as u32, (release % 1000 / 10) as u32),
            devices: devices as usize,
        }),
        Ok(_) => Err(Absent::Device("it counts 0 devices".into())),
        Err(code) => Err(Absent::Device(format!(
            "cuDeviceGetCount returned {code}{}",
            meaning(code)
        ))),
    }
}

/// An error with its cause, which is where the system's own words are.
fn full(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

/// The codes that a machine without a usable GPU gives.
fn meaning(code: c_int) -> &'static str {
    match code {
        3 => " (not initialised)",
        34 => " (stub library)",
        100 => " (no CUDA device)",
        802 => " (system not ready)",
        803 => " (driver and hardware do not match)",
        804 => " (compatibility mode not supported)",
        999 => " (unknown error)",
        _ => "",
    }
}

/// Major and minor.
type Version = (u32, u32);

/// PTX version and the CUDA release whose driver is the first to take it.
const PTX_RELEASES: &[(Version, Version)] = &[
    ((6, 3), (10, 0)),
    ((6, 4), (10, 1)),
    ((6, 5), (10, 2)),
    ((7, 0), (11, 0)),
    ((7, 1), (11, 1)),
    ((7, 2), (11, 2)),
    ((7, 3), (11, 3)),
    ((7, 4), (11, 4)),
    ((7, 5), (11, 5)),
    ((7, 6), (11, 6)),
    ((7, 7), (11, 7)),
    ((7, 8), (11, 8)),
    ((8, 0), (12, 0)),
    ((8, 1), (12, 1)),
    ((8, 2), (12, 2)),
    ((8, 3), (12, 3)),
    ((8, 4), (12, 4)),
    ((8, 5), (12, 5)),
    ((8, 6), (12, 7)),
    ((8, 7), (12, 8)),
    ((8, 8), (12, 9)),
    ((9, 0), (13, 0)),
    ((9, 1), (13, 1)),
];

/// The error for PTX that the driver of `release` finds too new.
pub(super) fn too_new(entry: &'static str, ptx: Version, release: Version) -> DeviceError {
    let needs = PTX_RELEASES
        .iter()
        .find(|&&(version, _)| version >= ptx)
        .map_or((ptx.0 + 4, ptx.1), |&(_, release)| release);
    let accepts = PTX_RELEASES
        .iter()
        .rev()
        .find(|&&(_, first)| first <= release)
        .map_or((0, 0), |&(version, _)| version);
    DeviceError::PtxTooNew {
        entry,
        ptx,
        needs,
        driver: release,
        accepts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_version_names_both_sides() {
        let text = too_new("prefill_bf16_d128", (7, 0), (10, 2)).to_string();
        assert_eq!(
            text,
            "prefill_bf16_d128 is PTX 7.0, which needs the driver of CUDA 11.0 or later; this is \
             the driver of CUDA 10.2, which takes PTX up to 6.5"
        );
        let text = too_new("later", (8, 7), (12, 6)).to_string();
        assert!(
            text.contains("CUDA 12.8 or later") && text.contains("up to 8.5"),
            "{text}"
        );
    }

    #[test]
    fn asking_twice_gives_one_answer_and_never_panics() {
        assert_eq!(format!("{:?}", driver()), format!("{:?}", driver()));
    }
}
