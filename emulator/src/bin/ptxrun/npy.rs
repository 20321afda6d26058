//! NumPy's files: a header and the elements as they lie in memory.
//!
//! Read here and not by a crate, since files come from anywhere: npyz 0.9 multiplies a header's extents
//! unchecked, and takes minutes for one with a thousand nested brackets.

use std::fmt::Write;
use std::path::Path;

const MAGIC: &[u8] = b"\x93NUMPY";

/// An array in bytes.
#[derive(Debug, PartialEq)]
pub struct Array {
    /// Type as NumPy writes it: `<f4`.
    pub descr: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Array {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Array, String> {
        let named = |problem: &str| format!("{}: {problem}", path.display());
        let file = std::fs::read(path).map_err(|error| named(&error.to_string()))?;
        Array::decode(&file).map_err(|problem| named(&problem))
    }

    /// Writes a file.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        std::fs::write(path, self.encode()).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn decode(file: &[u8]) -> Result<Array, String> {
        let rest = file.strip_prefix(MAGIC).ok_or("not a NumPy file")?;
        let (header, bytes) = match rest {
            [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
            [2 | 3, _, a, b, c, d, rest @ ..] => {
                (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest)
            }
            _ => return Err("a version of NumPy's format that is not known".into()),
        };
        let header = bytes.get(..header).map(String::from_utf8_lossy);
        let header = header.ok_or("the header is cut off")?;
        let bytes = &bytes[header.len()..];
        let field = |name: &str| {
            let (_, rest) = header.split_once(&format!("'{name}':"))?;
            Some(rest.trim_start())
        };
        let descr = field("descr")
            .and_then(|rest| rest.strip_prefix('\'')?.split_once('\''))
            .map(|(descr, _)| descr.to_string())
            .ok_or("records are not supported")?;
        if field("fortran_order").is_none_or(|rest| !rest.starts_with("False")) {
            return Err("column by column (fortran_order): save a row-major copy".into());
        }
        let shape = field("shape")
            .and_then(|rest| rest.strip_prefix('(')?.split_once(')'))
            .ok_or("the header has no shape")?
            .0;
        let dims = shape
            .split(',')
            .map(str::trim)
            .filter(|dim| !dim.is_empty());
        let shape = dims
            .map(|dim| dim.parse().map_err(|_| format!("{dim} is no extent")))
            .collect::<Result<Vec<usize>, String>>()?;
        if descr.starts_with('>') {
            return Err(format!("{descr} is big-endian: save a little-endian copy"));
        }
        let size = descr.get(2..).and_then(|size| size.parse::<usize>().ok());
        let size = size.ok_or_else(|| format!("elements of type {descr} are not supported"))?;
        let expected = shape
            .iter()
            .try_fold(size, |all, &dim| all.checked_mul(dim));
        if expected != Some(bytes.len()) {
            let expected = expected.unwrap_or(usize::MAX);
            return Err(format!(
                "{} bytes of elements, expected {expected}",
                bytes.len()
            ));
        }
        Ok(Array {
            descr,
            shape,
            bytes: bytes.to_vec(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut shape = String::new();
        for dim in &self.shape {
            let _ = write!(shape, "{dim}, ");
        }
        // A tuple of one has a comma at its end, one of more need not.
        let shape = if self.shape.len() > 1 {
            shape.trim_end_matches(", ")
        } else {
            shape.trim_end()
        };
        let mut header = format!(
            "{{'descr': '{}', 'fortran_order': False, 'shape': ({shape}), }}",
            self.descr
        );
        // The elements start at a multiple of 64.
        while !(MAGIC.len() + 4 + header.len() + 1).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let mut file = MAGIC.to_vec();
        file.extend([1, 0]);
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(&self.bytes);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for shape in [vec![], vec![3], vec![2, 3]] {
            let len: usize = shape.iter().product();
            let array = Array {
                descr: "<f4".into(),
                shape,
                bytes: (0..4 * len as u8).collect(),
            };
            let file = array.encode();
            assert_eq!((file.len() - array.bytes.len()) % 64, 0);
            assert_eq!(Array::decode(&file), Ok(array));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let file = |header: &str, bytes: usize| {
            let mut file = MAGIC.to_vec();
            file.extend([1, 0]);
            file.extend((header.len() as u16).to_le_bytes());
            file.extend(header.bytes());
            file.extend(vec![0; bytes]);
            file
        };
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        assert!(Array::decode(&file(good, 8)).is_ok());
        for (header, bytes, reason) in [
            (good.to_string(), 7, "7 bytes of elements, expected 8"),
            (good.replace('<', ">"), 8, "big-endian"),
            (good.replace("False", "True"), 8, "row-major"),
            (good.replace("'<f4'", "[('a', '<f4')]"), 8, "records"),
            (good.replace("2,", "x,"), 8, "no extent"),
            (
                good.replace("(2,)", "(2, 99999999999999999)"),
                8,
                "expected",
            ),
        ] {
            let error = Array::decode(&file(&header, bytes)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Array::decode(b"PK").is_err());
    }
}
