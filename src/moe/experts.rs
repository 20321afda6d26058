//! Which experts there are, and which of them this device has.

use std::ops::Range;

use super::MoeError;
use super::error::count;

/// The most routed experts.
pub(super) const MOST_EXPERTS: usize = 512;
/// The most experts that a token is routed to, and the most shared ones.
pub(super) const MOST_SLOTS: usize = 16;

/// The experts of a layer: `routed` that a token may be sent to, with ids from 0, then `shared`
/// ones that every token goes to. A device of several holds a range of the routed and all shared.
///
/// Weights of the experts of this device lie one behind the other: the routed in the order of their
/// ids, then the shared. A shared expert that is wider than the routed ones is as many shared
/// experts as they go into it: a gated layer is a sum over its intermediate columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experts {
    pub(super) routed: usize,
    pub(super) shared: usize,
    pub(super) local: Range<usize>,
}

impl Experts {
    /// All of `routed` and `shared` experts.
    pub fn new(routed: usize, shared: usize) -> Experts {
        Experts {
            routed,
            shared,
            local: 0..routed,
        }
    }

    /// Of the routed ones only these.
    #[must_use]
    pub fn local(mut self, local: Range<usize>) -> Experts {
        self.local = local;
        self
    }

    /// How many this device has, shared ones among them.
    pub fn here(&self) -> usize {
        self.local.len() + self.shared
    }

    /// The number of an expert on this device; `None` if it is elsewhere, or no expert at all.
    pub fn index(&self, id: i32) -> Option<usize> {
        let id = usize::try_from(id).ok()?;
        if self.local.contains(&id) {
            return Some(id - self.local.start);
        }
        let shared = id.checked_sub(self.routed)?;
        (shared < self.shared).then(|| self.local.len() + shared)
    }

    /// An id that means something: an expert, here or elsewhere, or -1 for none.
    pub fn valid(&self, id: i32) -> bool {
        id >= -1 && i64::from(id) < (self.routed + self.shared) as i64
    }

    pub(super) fn check(&self) -> Result<(), MoeError> {
        count("routed experts", self.routed, 1..=MOST_EXPERTS)?;
        count("shared experts", self.shared, 0..=MOST_SLOTS)?;
        if self.local.start > self.local.end || self.local.end > self.routed {
            return Err(MoeError::Local {
                expected: self.routed,
                got: self.local.clone(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_places_on_this_device() {
        let experts = Experts::new(8, 2).local(2..5);
        let indices: Vec<_> = (-2..11).map(|id| experts.index(id)).collect();
        let here = [Some(0), Some(1), Some(2)];
        assert_eq!(indices[4..7], here);
        assert_eq!(indices[10..12], [Some(3), Some(4)]);
        assert!(
            indices[..4]
                .iter()
                .chain(&indices[7..10])
                .all(Option::is_none)
        );
        assert_eq!(indices[12], None);
        assert_eq!(experts.here(), 5);
        assert!(experts.valid(-1) && experts.valid(9));
        assert!(!experts.valid(-2) && !experts.valid(10) && !experts.valid(i32::MIN));
    }
}
