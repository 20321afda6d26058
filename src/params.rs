//! Parameters of kernels: structs by value, mirrored from the kernels' headers.

/// A struct laid out as C does, that knows its fields: tests compare them with the PTX.
macro_rules! params {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        #[allow(missing_docs)] // Documented where the kernel declares them.
        pub struct $name { $(pub $field: $ty,)* }

        impl $name {
            /// Every field and its offset, in order.
            pub const FIELDS: &[(&str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field)),)*];
        }
    };
}
pub(crate) use params;
