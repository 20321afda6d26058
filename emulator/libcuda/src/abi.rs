//! The C boundary: pointers that callers pass, and how functions are exported.
//!
//! This file and `host.rs` hold all unsafe code of the crate. A value of [`Out`], [`In`] or [`Text`]
//! only ever comes from a C caller as the argument of an exported function, or out of a structure
//! that one pointed to; the driver API obliges that caller to pass null or a pointer that is good
//! for the call. That is what every SAFETY comment here leans on.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use crate::error::{Error, Result};

/// Where a result goes; null where the API allows to leave it out.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// Writes a result that has to go somewhere.
    pub fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        self.put(value);
        Ok(())
    }

    /// Writes a result, if it is asked for.
    pub fn put(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: Not null, so the caller vouches that a `T` can be written there.
            unsafe { self.0.write_unaligned(value) }
        }
    }

    /// Writes the `index`th of several results.
    pub fn put_at(self, index: usize, value: T) {
        if !self.0.is_null() {
            // SAFETY: Not null, and the caller gave room for more than `index` of them.
            unsafe { self.0.add(index).write_unaligned(value) }
        }
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The same place, to be read.
    pub fn as_in(self) -> In<T> {
        In(self.0)
    }

    /// The same place, for another type: what the API passes as `void *`.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

impl<T: Copy> Out<T> {
    /// What lies there now: the size of a buffer, where the API returns the size used.
    pub fn get(self) -> Result<T> {
        In(self.0).get()
    }
}

/// Where an argument lies; null where the API allows to leave it out.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// The `index`th of several.
    pub fn at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: Not null, so the caller vouches for more than `index` values of the type.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// The first `len`; none may be left out unless `len` is 0.
    pub fn take(self, len: usize) -> Result<Vec<T>> {
        (0..len).map(|index| self.at(index)).collect()
    }
}

/// A C string.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    pub fn get(self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.bytes()?.to_bytes()).into_owned())
    }

    fn bytes<'a>(self) -> Result<&'a CStr> {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: Not null, so the caller vouches for a string that ends with a zero byte. Both
        // users copy it before the call returns.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }
}

/// A function that the caller wants to have called.
pub type HostFn = unsafe extern "C" fn(data: usize);
/// The same with the stream and its state.
pub type StreamCallback = unsafe extern "C" fn(stream: usize, status: u32, data: usize);
/// Dynamic shared memory as a function of the block's size.
pub type BlockToShared = unsafe extern "C" fn(block: i32) -> usize;

/// Calls what the caller wants to have called.
pub fn call(function: HostFn, data: usize) {
    // SAFETY: The program passed both for this very call.
    unsafe { function(data) }
}

/// Calls a stream's callback.
pub fn call_back(function: StreamCallback, stream: usize, status: u32, data: usize) {
    // SAFETY: The program passed the function and `data` for this very call.
    unsafe { function(stream, status, data) }
}

/// Asks how much shared memory a block of this size wants.
pub fn shared_of(function: BlockToShared, block: i32) -> usize {
    // SAFETY: The program passed the function for this very question.
    unsafe { function(block) }
}

/// Writes text into a caller's buffer, cut off and ended with a zero byte; the bytes used.
pub fn fill_text(buffer: Out<u8>, room: usize, text: &str) -> usize {
    if room == 0 || buffer.is_null() {
        return 0;
    }
    let used = text.len().min(room - 1);
    for (index, byte) in text.bytes().take(used).chain([0]).enumerate() {
        buffer.put_at(index, byte);
    }
    used + 1
}

thread_local! {
    /// Whether the call in progress is of a `_ptsz` or `_ptds` variant.
    static PER_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether the stream 0 means the thread's own in the call that is in progress.
pub fn zero_is_per_thread() -> bool {
    PER_THREAD.get()
}

/// Runs the body of an exported function. A panic, which would be this crate's mistake, must not
/// cross into C.
pub fn enter(name: &'static str, body: impl FnOnce() -> Result) -> u32 {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    let result = result.unwrap_or_else(|_| {
        crate::say(&format!("{name} panicked: please report it"));
        Err(Error::UNKNOWN)
    });
    crate::driver::trace(name, result);
    result.map_or_else(|error| error.0, |()| 0)
}

/// As [`enter`], for the variants whose stream 0 is the thread's own.
pub fn enter_per_thread(name: &'static str, body: impl FnOnce() -> Result) -> u32 {
    let before = PER_THREAD.replace(true);
    let code = enter(name, body);
    PER_THREAD.set(before);
    code
}

/// Exports functions of the driver API: `fn name(arguments) { body }`, the body giving a
/// [`Result`]. `fn name, name_ptsz(..)` exports a second one whose stream 0 is the thread's own.
/// The module gets a list of its symbols.
macro_rules! exports {
    ($(
        $(#[$meta:meta])*
        fn $name:ident $(, $variant:ident)* ($($argument:ident: $type:ty),* $(,)?) $body:block
    )+) => {
        $(
            $(#[$meta])*
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub extern "C" fn $name($($argument: $type),*) -> u32 {
                $crate::abi::enter(stringify!($name), move || $body)
            }
            $crate::abi::variants!{ [$($variant)*] ($($argument: $type),*) $body }
        )+
        /// Names and addresses of what is exported here.
        pub fn symbols() -> Vec<(&'static str, usize)> {
            vec![$(
                (stringify!($name), $name as *const () as usize),
                $((stringify!($variant), $variant as *const () as usize),)*
            )+]
        }
    };
}
pub(crate) use exports;

macro_rules! variants {
    ([] $arguments:tt $body:block) => {};
    ([$variant:ident] ($($argument:ident: $type:ty),*) $body:block) => {
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $variant($($argument: $type),*) -> u32 {
            $crate::abi::enter_per_thread(stringify!($variant), move || $body)
        }
    };
}
pub(crate) use variants;

#[cfg(test)]
pub mod testing {
    //! Arguments as tests make them.
    use super::*;

    pub fn out<T>(place: &mut T) -> Out<T> {
        Out(place)
    }
    pub fn nowhere<T>() -> Out<T> {
        Out(std::ptr::null_mut())
    }
    impl<T> In<T> {
        pub fn cast<U>(self) -> In<U> {
            In(self.0.cast())
        }
    }
    pub fn input<T>(values: &[T]) -> In<T> {
        In(values.as_ptr())
    }
    pub fn nothing<T>() -> In<T> {
        In(std::ptr::null())
    }
    pub fn text(text: &CStr) -> Text {
        Text(text.as_ptr())
    }
}
