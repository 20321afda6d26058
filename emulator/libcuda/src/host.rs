//! Host memory: what callers point at, and what is allocated for them.

use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Alignment of page-locked and managed memory.
const PAGE: usize = 4096;

/// Copies from a caller's memory.
pub fn read(address: usize, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        // SAFETY: The program named this range as the source of a copy, or as memory that a kernel
        // may use, and has to keep it until that is done.
        unsafe { (address as *const u8).copy_to(bytes.as_mut_ptr(), bytes.len()) }
    }
}

/// Copies to a caller's memory.
pub fn write(address: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        // SAFETY: As for `read`, as the target.
        unsafe { (address as *mut u8).copy_from(bytes.as_ptr(), bytes.len()) }
    }
}

/// A copy of a caller's memory.
pub fn copy_of(address: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    read(address, &mut bytes);
    bytes
}

/// Memory that belongs to the driver and that the program uses through its address.
#[derive(Debug)]
pub struct Block {
    address: usize,
    layout: Layout,
}

impl Block {
    /// Zeroed; `None` if the host has not that much.
    pub fn new(bytes: usize) -> Option<Block> {
        let layout = Layout::from_size_align(bytes.max(1), PAGE).ok()?;
        // SAFETY: The size is not zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        (!pointer.is_null()).then_some(Block {
            address: pointer as usize,
            layout,
        })
    }

    pub fn address(&self) -> usize {
        self.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: Allocated in `new` with this layout, and freed once. That the program does not
        // use it any more is what freeing it says.
        unsafe { dealloc(self.address as *mut u8, self.layout) }
    }
}
