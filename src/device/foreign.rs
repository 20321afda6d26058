//! The doors for pointers and streams that nobody here can check.

use std::ffi::c_void;

use super::{Device, Stream};
use crate::dtype::DType;
use crate::tensor::{Place, Region, RegionMut};

impl<'a> Region<'a> {
    /// Memory that somebody else owns: `len` elements of `dtype` at a device address.
    ///
    /// # Safety
    /// For as long as `'a` lasts, and until all work enqueued with this region is done:
    /// - `address` is the address, on `device`, of at least `len` elements of allocated memory;
    /// - nothing writes to it, unless ordered before or after that work;
    /// - it is not freed. Freeing that waits for the device, or that is ordered after the work in
    ///   its stream, is the usual way.
    ///
    /// If the work is captured into a graph, the same holds until the graph's last replay.
    pub unsafe fn from_raw_parts(address: u64, len: u64, dtype: DType, device: &Device) -> Self {
        Region::vouched(
            address,
            len,
            dtype,
            Place {
                device: device.id(),
                stream: None,
            },
        )
    }
}

impl<'a> RegionMut<'a> {
    /// Memory that somebody else owns, to be written.
    ///
    /// # Safety
    /// As for [`Region::from_raw_parts`], and nothing else reads from it or writes to it, unless
    /// ordered before or after the work enqueued with this region.
    pub unsafe fn from_raw_parts(address: u64, len: u64, dtype: DType, device: &Device) -> Self {
        RegionMut::vouched(
            address,
            len,
            dtype,
            Place {
                device: device.id(),
                stream: None,
            },
        )
    }
}

impl Device {
    /// A stream that somebody else owns: a `CUstream` of this device's context.
    ///
    /// Null is the legacy default stream; the per-thread default stream is no single stream and
    /// must not be given. On the emulator the handle is not looked at.
    ///
    /// # Safety
    /// `stream` is a stream of this device's context, or null, and stays so until the result, its
    /// clones and all memory allocated through them are dropped.
    pub unsafe fn foreign_stream(&self, stream: *mut c_void) -> Stream {
        // SAFETY: Passed on.
        self.with_queue(unsafe { self.0.backend.foreign_stream(stream) })
    }
}
