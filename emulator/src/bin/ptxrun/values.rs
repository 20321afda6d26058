//! Kernel parameters as they are written on the command line.

use std::path::PathBuf;

use half::{bf16, f16};

use crate::npy::Array;

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// The address of a buffer.
    Address(Buffer),
    /// A file's bytes, with addresses of buffers written over them at these offsets.
    Aggregate {
        file: PathBuf,
        addresses: Vec<(usize, Buffer)>,
    },
}

/// Device memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    pub contents: Contents,
    /// Where it goes after the launch.
    pub save: Option<PathBuf>,
}

/// What a buffer holds at first.
#[derive(Clone, Debug, PartialEq)]
pub enum Contents {
    /// What a file holds.
    File(PathBuf),
    Zeros(Layout),
    /// Nothing: it is uninitialised.
    Fresh(Layout),
}

/// Type and extents of what a file will hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Type of an element, as it is called here.
    pub kind: &'static str,
    /// Type as NumPy writes it.
    pub descr: &'static str,
    pub shape: Vec<usize>,
    pub bytes: usize,
}

/// Types of elements: name, NumPy's name, bytes. NumPy lacks bf16 and the 8-bit floats; they travel
/// as integers.
const TYPES: &[(&str, &str, usize)] = &[
    ("u8", "|u1", 1),
    ("i8", "|i1", 1),
    ("u16", "<u2", 2),
    ("i16", "<i2", 2),
    ("u32", "<u4", 4),
    ("i32", "<i4", 4),
    ("u64", "<u8", 8),
    ("i64", "<i8", 8),
    ("f16", "<f2", 2),
    ("bf16", "<u2", 2),
    ("f32", "<f4", 4),
    ("f64", "<f8", 8),
    ("e4m3", "|u1", 1),
    ("e5m2", "|u1", 1),
];

/// Reads one `--arg`.
pub fn value(text: &str) -> Result<Value, String> {
    if text == "null" {
        return Ok(Value::Bytes(vec![0; 8]));
    }
    let (kind, rest) = text.split_once(':').ok_or_else(|| unknown(text))?;
    if let Some(bytes) = scalar(kind, rest)? {
        return Ok(Value::Bytes(bytes));
    }
    if kind != "bytes" {
        return buffer(text).map(Value::Address);
    }
    let mut parts = rest.split(',');
    let file = PathBuf::from(parts.next().unwrap_or_default());
    let address = |part: &str| {
        let (offset, text) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?}: expected OFFSET=BUFFER"))?;
        let offset = offset
            .parse()
            .map_err(|_| format!("{offset:?} is no offset"))?;
        Ok::<_, String>((offset, buffer(text)?))
    };
    Ok(Value::Aggregate {
        file,
        addresses: parts.map(address).collect::<Result<_, _>>()?,
    })
}

fn unknown(text: &str) -> String {
    format!(
        "{text:?}: expected TYPE:VALUE, null, in:FILE, inout:FILE:OUT, out:TYPE:EXTENTS:OUT, \
         zeros:TYPE:EXTENTS[:OUT] or bytes:FILE[,OFFSET=BUFFER...]"
    )
}

/// The bytes of a number, if `kind` is a type of numbers.
fn scalar(kind: &str, text: &str) -> Result<Option<Vec<u8>>, String> {
    fn parsed<T: std::str::FromStr>(kind: &str, text: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("{text:?} is no {kind}"))
    }
    let float = || parsed::<f32>(kind, text);
    Ok(Some(match kind {
        "u8" => vec![parsed::<u8>(kind, text)?],
        "i8" => parsed::<i8>(kind, text)?.to_le_bytes().into(),
        "u16" => parsed::<u16>(kind, text)?.to_le_bytes().into(),
        "i16" => parsed::<i16>(kind, text)?.to_le_bytes().into(),
        "u32" => parsed::<u32>(kind, text)?.to_le_bytes().into(),
        "i32" => parsed::<i32>(kind, text)?.to_le_bytes().into(),
        "u64" => parsed::<u64>(kind, text)?.to_le_bytes().into(),
        "i64" => parsed::<i64>(kind, text)?.to_le_bytes().into(),
        "f16" => f16::from_f32(float()?).to_le_bytes().into(),
        "bf16" => bf16::from_f32(float()?).to_le_bytes().into(),
        "f32" => float()?.to_le_bytes().into(),
        "f64" => parsed::<f64>(kind, text)?.to_le_bytes().into(),
        _ => return Ok(None),
    }))
}

fn buffer(text: &str) -> Result<Buffer, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (contents, save) = match parts[..] {
        ["in", file] => (Contents::File(file.into()), None),
        ["inout", file, out] => (Contents::File(file.into()), Some(out)),
        ["out", kind, extents, out] => (Contents::Fresh(layout(kind, extents)?), Some(out)),
        ["zeros", kind, extents] => (Contents::Zeros(layout(kind, extents)?), None),
        ["zeros", kind, extents, out] => (Contents::Zeros(layout(kind, extents)?), Some(out)),
        _ => return Err(unknown(text)),
    };
    Ok(Buffer {
        contents,
        save: save.map(PathBuf::from),
    })
}

fn layout(kind: &str, extents: &str) -> Result<Layout, String> {
    let found = TYPES.iter().find(|(name, ..)| *name == kind);
    let (kind, descr, size) = found.ok_or_else(|| {
        let names: Vec<_> = TYPES.iter().map(|(name, ..)| *name).collect();
        format!("{kind:?} is no type: expected one of {}", names.join(" "))
    })?;
    let shape = extents
        .split('x')
        .map(|extent| {
            extent
                .parse()
                .map_err(|_| format!("{extents:?}: expected EXTENTxEXTENT..."))
        })
        .collect::<Result<Vec<usize>, String>>()?;
    let bytes = shape
        .iter()
        .try_fold(*size, |all, &extent| all.checked_mul(extent));
    Ok(Layout {
        kind,
        descr,
        bytes: bytes.ok_or_else(|| format!("{extents} is too big"))?,
        shape,
    })
}

impl Layout {
    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        let found = TYPES.iter().find(|(kind, ..)| *kind == self.kind);
        found.map_or(1, |(.., bytes)| *bytes)
    }
}

impl Buffer {
    /// Its bytes, if it has any, and how it will be saved.
    pub fn load(&self) -> Result<(Option<Vec<u8>>, Layout), String> {
        match &self.contents {
            Contents::Zeros(layout) => Ok((Some(vec![0; layout.bytes]), layout.clone())),
            Contents::Fresh(layout) => Ok((None, layout.clone())),
            Contents::File(path) => {
                let array = Array::read(path)?;
                let known = TYPES.iter().find(|(_, descr, _)| *descr == array.descr);
                let layout = Layout {
                    // What has no name here is saved as bytes of the same number.
                    kind: known.map_or("u8", |(kind, ..)| kind),
                    descr: known.map_or("|u1", |(_, descr, _)| descr),
                    bytes: array.bytes.len(),
                    shape: match known {
                        Some(_) => array.shape,
                        None => vec![array.bytes.len()],
                    },
                };
                Ok((Some(array.bytes), layout))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_their_bytes() {
        let bytes = |text: &str| match value(text) {
            Ok(Value::Bytes(bytes)) => bytes,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(bytes("i32:-1"), [255; 4]);
        assert_eq!(bytes("u8:7"), [7]);
        assert_eq!(bytes("f16:1"), [0, 0x3c]);
        assert_eq!(bytes("bf16:1"), [0x80, 0x3f]);
        assert_eq!(bytes("f64:0.5"), 0.5f64.to_le_bytes());
        assert_eq!(bytes("null"), [0; 8]);
        for wrong in ["u8:256", "i32:x", "f32:", "i33:1", "5", ""] {
            assert!(value(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn buffers_say_what_they_hold_and_where_they_go() {
        let Ok(Value::Address(out)) = value("out:bf16:2x3:o.npy") else {
            panic!();
        };
        let layout = Layout {
            kind: "bf16",
            descr: "<u2",
            shape: vec![2, 3],
            bytes: 12,
        };
        assert_eq!(out.contents, Contents::Fresh(layout));
        assert_eq!(out.save, Some("o.npy".into()));
        let Ok(Value::Aggregate { file, addresses }) =
            value("bytes:p.bin,8=in:a.npy,16=zeros:f32:4")
        else {
            panic!();
        };
        assert_eq!(file, PathBuf::from("p.bin"));
        assert_eq!(
            addresses
                .iter()
                .map(|(offset, _)| *offset)
                .collect::<Vec<_>>(),
            [8, 16]
        );
        for wrong in [
            "out:f32:4",
            "out:f33:4:o",
            "zeros:f32:4xx",
            "in",
            "bytes:p.bin,x=in:a",
        ] {
            assert!(value(wrong).is_err(), "{wrong}");
        }
    }
}
