//! Finding functions, errors' names, and what is not there.

use super::*;
use crate::api::{fallback, symbols};
use crate::error::Error;

fn find(name: &str, release: i32, flags: u64) -> (u32, usize) {
    let name = CString::new(name).unwrap();
    let (mut address, mut status) = (7, 9);
    let (place, about) = (out(&mut address), out(&mut status));
    ok(version::cuGetProcAddress_v2(
        text(&name),
        place,
        release,
        flags,
        about,
    ));
    (status, address)
}

#[test]
fn a_name_means_what_it_meant_to_the_release() {
    let address = |symbol: &str| {
        let all = symbols();
        all.iter().find(|(name, _)| *name == symbol).unwrap().1
    };
    assert_eq!(find("cuMemAlloc", 12_000, 0), (0, address("cuMemAlloc_v2")));
    assert_eq!(
        find("cuCtxCreate", 11_000, 0),
        (0, address("cuCtxCreate_v2"))
    );
    assert_eq!(
        find("cuCtxCreate", 13_000, 0),
        (0, address("cuCtxCreate_v4"))
    );
    assert_eq!(
        find("cuLaunchKernel", 13_000, 0),
        (0, address("cuLaunchKernel"))
    );
    assert_eq!(
        find("cuLaunchKernel", 13_000, 2),
        (0, address("cuLaunchKernel_ptsz"))
    );
    assert_eq!(
        find("cuMemcpyHtoD", 13_000, 2),
        (0, address("cuMemcpyHtoD_v2_ptds"))
    );
    assert_eq!(find("cuNoSuchThing", 13_000, 0), (1, 0));
}

#[test]
fn every_symbol_is_exported_once() {
    let mut names: Vec<_> = symbols().into_iter().map(|(name, _)| name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(all > 600, "{all}");
}

#[test]
fn errors_have_names_and_texts() {
    let mut text = std::ptr::null();
    ok(version::cuGetErrorName(
        Error::ILLEGAL_ADDRESS.0,
        out(&mut text),
    ));
    assert!(!text.is_null());
    assert_eq!(
        version::cuGetErrorString(12_345, out(&mut text)),
        Error::INVALID_VALUE.0
    );
    assert!(text.is_null());
}

#[test]
fn what_is_not_there_says_so() {
    let (_, address) = fallback::symbols()[0];
    assert_ne!(address, 0);
    assert_eq!(fallback::cuArrayDestroy(), Error::NOT_SUPPORTED.0);
    assert_eq!(version::cuInit(1), Error::INVALID_VALUE.0);
}
