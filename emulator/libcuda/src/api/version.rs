//! Starting, versions, errors, and looking up functions.

use std::ffi::c_char;

use crate::abi::{Out, Text, exports};
use crate::driver::{self, Session};
use crate::error::{Error, describe};

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;
/// `CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND`, and `.._VERSION_NOT_SUFFICIENT` is 2.
const SYMBOL_NOT_FOUND: u32 = 1;

exports! {
    fn cuInit(flags: u32) {
        match flags {
            0 => driver::initialise(),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        // Allowed before cuInit.
        let known = match Session::open() {
            Ok(driver) => driver.settings.driver_version,
            Err(_) => crate::settings::Settings::read(|name| std::env::var(name).ok())
                .map_err(|message| { crate::say(&message); Error::INVALID_VALUE })?
                .driver_version,
        };
        version.set(known as i32)
    }

    fn cuGetErrorName(code: u32, text: Out<*const c_char>) {
        match describe(code) {
            Some((name, _)) => text.set(name.as_ptr()),
            None => {
                text.put(std::ptr::null());
                Err(Error::INVALID_VALUE)
            }
        }
    }

    fn cuGetErrorString(code: u32, text: Out<*const c_char>) {
        match describe(code) {
            Some((_, words)) => text.set(words.as_ptr()),
            None => {
                text.put(std::ptr::null());
                Err(Error::INVALID_VALUE)
            }
        }
    }

    fn cuGetProcAddress(symbol: Text, function: Out<usize>, version: i32, flags: u64) {
        match find(&symbol.get()?, version, flags & PER_THREAD != 0) {
            Some(address) => function.set(address),
            None => {
                function.put(0);
                Err(Error::NOT_FOUND)
            }
        }
    }

    fn cuGetProcAddress_v2(symbol: Text, function: Out<usize>, version: i32, flags: u64, status: Out<u32>) {
        // Not to know a function is no error here: the status says so.
        let found = find(&symbol.get()?, version, flags & PER_THREAD != 0);
        status.put(if found.is_some() { 0 } else { SYMBOL_NOT_FOUND });
        function.set(found.unwrap_or(0))
    }

    fn cuProfilerStart() {
        Session::open()?.current().map(|_| ())
    }

    fn cuProfilerStop() {
        Session::open()?.current().map(|_| ())
    }
}

/// Functions whose plain name has meant another one since a release: base, release, symbol.
const SINCE: &[(&str, i32, &str)] = &[
    ("cuCtxCreate", 3020, "cuCtxCreate_v2"),
    ("cuCtxCreate", 11_040, "cuCtxCreate_v3"),
    ("cuCtxCreate", 13_000, "cuCtxCreate_v4"),
    ("cuDeviceGetUuid", 11_040, "cuDeviceGetUuid_v2"),
    ("cuEventElapsedTime", 12_080, "cuEventElapsedTime_v2"),
    ("cuGetProcAddress", 12_000, "cuGetProcAddress_v2"),
    ("cuGraphAddKernelNode", 12_000, "cuGraphAddKernelNode_v2"),
    ("cuGraphInstantiate", 12_000, "cuGraphInstantiateWithFlags"),
    (
        "cuGraphKernelNodeGetParams",
        12_000,
        "cuGraphKernelNodeGetParams_v2",
    ),
    ("cuMemAdvise", 13_000, "cuMemAdvise_v2"),
    ("cuMemPrefetchAsync", 13_000, "cuMemPrefetchAsync_v2"),
    ("cuStreamBeginCapture", 10_010, "cuStreamBeginCapture_v2"),
    (
        "cuStreamGetCaptureInfo",
        12_000,
        "cuStreamGetCaptureInfo_v2",
    ),
    (
        "cuStreamGetCaptureInfo",
        13_000,
        "cuStreamGetCaptureInfo_v3",
    ),
];

/// The function that a name means to a program made for a release.
fn find(name: &str, version: i32, per_thread: bool) -> Option<usize> {
    let symbols = super::symbols();
    let address = |name: &str| {
        let found = symbols.iter().find(|(symbol, _)| *symbol == name);
        found.map(|(_, address)| *address)
    };
    let renamed = SINCE
        .iter()
        .rev()
        .find(|(base, since, _)| *base == name && *since <= version);
    let symbol = match renamed {
        Some((_, _, symbol)) => symbol.to_string(),
        // The others with a `_v2` have had it since 3.2, or 4.0 for contexts.
        None if SINCE.iter().all(|(base, ..)| *base != name)
            && address(&format!("{name}_v2")).is_some() =>
        {
            format!("{name}_v2")
        }
        None => name.to_string(),
    };
    let variant = ["_ptsz", "_ptds"]
        .iter()
        .find_map(|end| address(&format!("{symbol}{end}")));
    variant.filter(|_| per_thread).or_else(|| address(&symbol))
}
