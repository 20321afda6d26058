//! What a kernel says about itself, read out of its PTX.

use serde::{Deserialize, Serialize};

use super::Result;
use super::declaration::Declaration;

/// The figures of one kernel.
#[derive(Deserialize, Serialize, Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Threads of a block: the array and `.maxntid` agree.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub smem_bytes: u32,
    /// Rows of a block's tile of queries (or of whatever the kernel's output rows are).
    pub tile_q: u32,
    /// Rows of a tile of keys (or of whatever the kernel loops over).
    pub tile_k: u32,
    /// Tiles in flight.
    pub stages: u32,
    /// Size of the parameter: the array and `.param` agree.
    pub param_bytes: u32,
    /// Offset of each of its fields.
    pub param_offsets: Vec<u32>,
}

impl Info {
    /// Version of the array's layout that this reads.
    const VERSION: u32 = 1;

    /// Reads the array `<entry>_info` and compares it with what the text declares.
    pub fn read(text: &str, entry: &Declaration) -> Result<Self> {
        Self::parse(text, entry).map_err(|e| format!("{}: {e}", entry.name))
    }

    fn parse(text: &str, entry: &Declaration) -> Result<Self> {
        for (directive, declared) in [(".version", &entry.ptx_version), (".target", &entry.target)]
        {
            let line = text.lines().find_map(|line| line.strip_prefix(directive));
            let found = line.unwrap_or_default().trim();
            if found != declared {
                return Err(format!(
                    "{directive} is {found:?}, cuda/kernels.toml says {declared:?}"
                ));
            }
        }
        if text.matches("\n.visible .entry ").count() != 1 {
            return Err("a text must hold exactly one entry".to_owned());
        }
        let words = info_array(text, &entry.name)?;
        let [
            version,
            smem_bytes,
            threads,
            tile_q,
            tile_k,
            stages,
            param_bytes,
            fields,
            offsets @ ..,
        ] = &words[..]
        else {
            return Err("its info array is too short".to_owned());
        };
        if *version != Self::VERSION {
            return Err(format!(
                "its info array has version {version}, not {}",
                Self::VERSION
            ));
        }
        if offsets.len() != *fields as usize {
            return Err(format!(
                "its info array lists {} of {fields} fields",
                offsets.len()
            ));
        }
        if !offsets.is_sorted_by(|a, b| a < b) || offsets.last().is_some_and(|o| o >= param_bytes) {
            return Err(format!(
                "its fields lie at {offsets:?} of {param_bytes} bytes"
            ));
        }
        let declared = param_size(text, &entry.name)?;
        if declared != *param_bytes {
            return Err(format!(
                "its info says {param_bytes} parameter bytes, .param {declared}"
            ));
        }
        let declared = max_threads(text)?;
        if declared != *threads {
            return Err(format!(
                "its info says {threads} threads, .maxntid {declared}"
            ));
        }
        Ok(Self {
            threads: *threads,
            smem_bytes: *smem_bytes,
            tile_q: *tile_q,
            tile_k: *tile_k,
            stages: *stages,
            param_bytes: *param_bytes,
            param_offsets: offsets.to_vec(),
        })
    }
}

/// The words of `.const .align 4 .b8 NAME_info[48] = {1, 0, ...};`. Trailing zeros are not written.
fn info_array(text: &str, name: &str) -> Result<Vec<u32>> {
    let name = format!("{name}_info[");
    let read = || {
        let line = text
            .lines()
            .find(|line| line.contains(".const") && line.contains(&name))?;
        let (size, rest) = line.split_once(&name)?.1.split_once(']')?;
        let values = rest.split_once('{')?.1.split_once('}')?.0;
        let mut bytes: Vec<u8> = values
            .split(',')
            .map(|value| value.trim().parse().ok())
            .collect::<Option<_>>()?;
        bytes.resize(line.contains(".b8").then(|| size.parse().ok())??, 0);
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b));
        Some(bytes.chunks(4).map(word).collect())
    };
    read().ok_or_else(|| {
        format!("it has no `extern \"C\" __constant__ const uint32_t {name}]` with values")
    })
}

/// The size of an entry's one parameter, a struct by value.
fn param_size(text: &str, name: &str) -> Result<u32> {
    let read = || {
        let signature = text
            .split_once(&format!(".entry {name}("))?
            .1
            .split_once(')')?
            .0;
        let [parameter] = signature.trim().split(',').collect::<Vec<_>>()[..] else {
            return None;
        };
        parameter
            .rsplit_once('[')?
            .1
            .split_once(']')?
            .0
            .parse()
            .ok()
    };
    read().ok_or_else(|| "an entry must take one struct by value".to_owned())
}

/// The product of `.maxntid x, y, z`.
fn max_threads(text: &str) -> Result<u32> {
    let read = || {
        let numbers = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(".maxntid"))?;
        numbers
            .split(',')
            .map(|n| n.trim().parse::<u32>().ok())
            .product::<Option<u32>>()
    };
    read().ok_or_else(|| "an entry must declare its __launch_bounds__".to_owned())
}
