//! Typed values of a file's metadata.

use gguf_rs_lib::format::metadata::MetadataValue as Stored;

mod sealed {
    /// A value as the file has it. Cannot be named outside.
    #[derive(Clone, Copy, Debug)]
    pub struct Value<'f>(pub &'f super::Stored);

    pub trait Sealed<'f>: Sized {
        const WHAT: &'static str;
        fn read(value: Value<'f>) -> Option<Self>;
    }
}
pub(super) use sealed::{Sealed, Value};

/// What [`GgufFile::get`](super::GgufFile::get) can give: `bool`; `u32`, `u64`, `usize` and `i64`
/// of any integer that they can hold; `f32` of that type, `f64` of both; `&str`; and `Vec` of these
/// for arrays. Nothing is rounded.
pub trait MetadataValue<'f>: Sealed<'f> {}
impl<'f, T: Sealed<'f>> MetadataValue<'f> for T {}

/// An integer of any of the file's types.
fn integer(value: &Stored) -> Option<i128> {
    let unsigned = value.as_u64().map(i128::from);
    unsigned.or_else(|| value.as_i64().map(i128::from))
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl<'f> Sealed<'f> for $type {
            const WHAT: &'static str = concat!("an integer that fits ", stringify!($type));
            fn read(Value(value): Value<'f>) -> Option<Self> {
                integer(value)?.try_into().ok()
            }
        }
    )*};
}
integers!(u32, u64, usize, i64);

impl<'f> Sealed<'f> for bool {
    const WHAT: &'static str = "true or false";
    fn read(Value(value): Value<'f>) -> Option<Self> {
        value.as_bool()
    }
}

impl<'f> Sealed<'f> for f32 {
    const WHAT: &'static str = "an f32";
    fn read(Value(value): Value<'f>) -> Option<Self> {
        match value {
            Stored::F32(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'f> Sealed<'f> for f64 {
    const WHAT: &'static str = "an f32 or f64";
    fn read(Value(value): Value<'f>) -> Option<Self> {
        value.as_f64()
    }
}

impl<'f> Sealed<'f> for &'f str {
    const WHAT: &'static str = "a string";
    fn read(Value(value): Value<'f>) -> Option<Self> {
        value.as_str()
    }
}

impl<'f, T: Sealed<'f>> Sealed<'f> for Vec<T> {
    const WHAT: &'static str = "an array of the right type";
    fn read(Value(value): Value<'f>) -> Option<Self> {
        match value {
            Stored::Array(array) => array.values.iter().map(|of| T::read(Value(of))).collect(),
            _ => None,
        }
    }
}

/// A value in a few words.
pub(super) fn brief(value: &Stored) -> String {
    match value {
        Stored::Array(array) => format!("{} × {:?}", array.values.len(), array.element_type),
        Stored::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        value => format!("{value:?}"),
    }
}
