//! Memory of all state spaces, and what is known about its bytes.

pub(crate) mod access;
mod banks;
pub(crate) mod bytes;
pub(crate) mod defer;
pub(crate) mod global;
pub(crate) mod hostile;
pub(crate) mod location;
pub(crate) mod mbarrier;
pub(crate) mod order;
pub(crate) mod pages;
pub(crate) mod race;
pub(crate) mod shared;
pub(crate) mod strong;
mod transfer;
mod view;

pub use global::MemoryError;

/// First valid address of shared memory: below lies what the system keeps for itself.
pub(crate) const SHARED_BASE: u32 = 1024;
/// First valid address of local memory.
pub(crate) const LOCAL_BASE: u32 = 1024;

/// A state space as addresses know it. `.const` has its variables among the global ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    Global,
    Shared,
    Local,
    Param,
}

/// Upper halves of generic addresses that lie in the window of another space than global.
const WINDOWS: [(u64, Window); 3] = [
    (0x0001_0000, Window::Shared),
    (0x0001_0001, Window::Local),
    (0x0001_0002, Window::Param),
];

impl Window {
    /// The space that a generic address lies in.
    #[inline(always)]
    pub(crate) fn of(address: u64) -> Window {
        let upper = address >> 32;
        if upper & 0xffff_0000 != 0x0001_0000 {
            return Window::Global;
        }
        WINDOWS
            .iter()
            .find(|(window, _)| *window == upper)
            .map_or(Window::Global, |(_, window)| *window)
    }

    /// What to add to an address of this space to make it generic.
    pub(crate) fn base(self) -> u64 {
        WINDOWS
            .iter()
            .find(|(_, window)| *window == self)
            .map_or(0, |(upper, _)| upper << 32)
    }
}
