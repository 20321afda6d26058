//! Memory that programs have allocated, of devices and of the host.

use crate::driver::{Handle, Session, State};
use crate::error::{Error, Result};
use crate::host::Block;
use crate::work::Side;

/// Memory that was allocated, or belongs to a module's variable.
pub struct Allocation {
    pub base: u64,
    pub size: u64,
    /// Ordinal of the device; of host memory, of the context's.
    pub device: usize,
    pub context: Handle,
    pub home: Home,
    /// Flags as the program gave them.
    pub flags: u32,
    /// A number that no other allocation has.
    pub id: u64,
}

/// Where memory comes from.
pub enum Home {
    Device,
    /// A device's, from a pool.
    Pool(Handle),
    /// A device's, of a module's variable.
    Variable,
    /// The host's, page-locked.
    Host(#[allow(dead_code, reason = "freed with the allocation")] Block),
    /// The host's and the program's own, page-locked afterwards. The range as it was registered.
    Registered {
        start: u64,
        size: u64,
    },
    /// On the host, and used by devices as if it were theirs.
    Managed(#[allow(dead_code, reason = "freed with the allocation")] Block),
}

impl Allocation {
    pub fn is_on_host(&self) -> bool {
        matches!(
            self.home,
            Home::Host(_) | Home::Registered { .. } | Home::Managed(_)
        )
    }

    pub fn is_managed(&self) -> bool {
        matches!(self.home, Home::Managed(_))
    }

    fn holds(&self, address: u64, len: u64) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset < self.size.max(1) && len <= self.size - offset
    }
}

/// A pool of memory for allocation in stream order.
pub struct Pool {
    pub device: usize,
    /// Whether the device made it, so that nobody may destroy it.
    pub of_device: bool,
    /// Attributes that can be set, by number.
    pub attributes: std::collections::BTreeMap<u32, u64>,
    pub used: u64,
    pub most_used: u64,
}

impl Pool {
    pub fn new(device: usize, of_device: bool) -> Pool {
        Pool {
            device,
            of_device,
            attributes: [(1, 1), (2, 1), (3, 1), (4, 0)].into(),
            used: 0,
            most_used: 0,
        }
    }
}

impl State {
    /// The allocation around an address.
    pub fn allocation_at(&self, address: u64) -> Option<&Allocation> {
        let (_, found) = self.allocations.range(..=address).next_back()?;
        found.holds(address, 0).then_some(found)
    }

    /// The device whose memory an address lies in.
    pub fn device_of(&self, address: u64) -> Result<usize> {
        let found = self.allocation_at(address).ok_or(Error::ILLEGAL_ADDRESS)?;
        Ok(found.device)
    }

    /// Checks that a range lies in one allocation.
    pub fn range(&self, address: u64, len: usize) -> Result<&Allocation> {
        let found = self.allocation_at(address).ok_or(Error::INVALID_VALUE)?;
        match found.holds(address, len as u64) {
            true => Ok(found),
            false => Err(Error::INVALID_VALUE),
        }
    }

    /// The side of a copy that an address of any kind means.
    pub fn side(&self, address: u64, len: usize) -> Result<Side> {
        match self.allocation_at(address) {
            Some(found) if !found.is_on_host() => {
                self.range(address, len).map(|_| Side::Device(address))
            }
            _ => Ok(Side::Host(address as usize)),
        }
    }

    /// The side of a copy that an address means which is given as a device's.
    pub fn device_side(&self, address: u64, len: usize) -> Result<Side> {
        self.range(address, len)?;
        self.side(address, len)
    }

    /// Whether the host's memory there is page-locked, so that copies need not go by a buffer.
    pub fn is_locked(&self, address: usize) -> bool {
        let found = self.allocation_at(address as u64);
        found.is_some_and(Allocation::is_on_host)
    }

    /// Bytes of a device that are in use.
    pub fn used(&self, device: usize) -> u64 {
        let own = self.allocations.values();
        own.filter(|allocation| allocation.device == device && !allocation.is_on_host())
            .map(|allocation| allocation.size)
            .sum()
    }

    pub fn allocate(&mut self, context: Handle, bytes: usize, home: Home) -> Result<u64> {
        if bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        let device = self.context(context)?.device;
        let emulator = &self.devices[device].emulator;
        let base = emulator
            .alloc(bytes as u64)
            .map_err(|_| Error::OUT_OF_MEMORY)?;
        if let Home::Pool(pool) = home
            && let Some(pool) = self.pools.get_mut(&pool)
        {
            pool.used += bytes as u64;
            pool.most_used = pool.most_used.max(pool.used);
        }
        self.enter(context, base, bytes as u64, home, 0);
        Ok(base)
    }

    /// Notes memory that exists.
    pub fn enter(&mut self, context: Handle, base: u64, size: u64, home: Home, flags: u32) {
        let id = self.handle() as u64;
        let device = self
            .contexts
            .get(&context)
            .map_or(0, |context| context.device);
        let allocation = Allocation {
            base,
            size,
            device,
            context,
            home,
            flags,
            id,
        };
        self.allocations.insert(base, allocation);
    }

    /// Page-locked or managed memory, zeroed, at one address for the host and every device.
    pub fn allocate_on_host(
        &mut self,
        context: Handle,
        bytes: usize,
        managed: bool,
        flags: u32,
    ) -> Result<u64> {
        if bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        let block = Block::new(bytes).ok_or(Error::OUT_OF_MEMORY)?;
        let base = block.address() as u64;
        self.map(base, bytes as u64)?;
        let home = match managed {
            true => Home::Managed(block),
            false => Home::Host(block),
        };
        self.enter(context, base, bytes as u64, home, flags);
        Ok(base)
    }

    /// Page-locks memory of the program's own.
    pub fn register(&mut self, context: Handle, start: u64, size: u64, flags: u32) -> Result {
        // What devices see has to be aligned; the few bytes before belong to the same page.
        let base = start / 256 * 256;
        let end = start.checked_add(size).ok_or(Error::INVALID_VALUE)?;
        let mut known = self.allocations.range(..end);
        if known
            .next_back()
            .is_some_and(|(_, last)| last.base + last.size > base)
        {
            return Err(Error::HOST_MEMORY_ALREADY_REGISTERED);
        }
        self.map(base, end - base)?;
        self.enter(
            context,
            base,
            end - base,
            Home::Registered { start, size },
            flags,
        );
        Ok(())
    }

    fn map(&mut self, base: u64, size: u64) -> Result {
        for index in 0..self.devices.len() {
            if let Err(error) = self.devices[index].emulator.map(base, size) {
                crate::say(&error.to_string());
                for device in &self.devices[..index] {
                    let _ = device.emulator.free(base);
                }
                return Err(Error::MAP_FAILED);
            }
        }
        Ok(())
    }

    /// Gives memory back.
    pub fn release(&mut self, base: u64) {
        let Some(allocation) = self.allocations.remove(&base) else {
            return;
        };
        if let Home::Pool(pool) = allocation.home
            && let Some(pool) = self.pools.get_mut(&pool)
        {
            pool.used -= allocation.size;
        }
        let holders = match allocation.is_on_host() {
            true => &self.devices[..],
            false => &self.devices[allocation.device..=allocation.device],
        };
        for device in holders {
            // It is there, since it was entered; and if not, it is as it should be.
            let _ = device.emulator.free(base);
        }
    }
}

impl Session {
    /// Frees memory, once nothing that was enqueued can use it any more.
    pub fn free(&mut self, base: u64, fits: impl Fn(&Home) -> bool) -> Result {
        let found = self.allocations.get(&base).ok_or(Error::INVALID_VALUE)?;
        if !fits(&found.home) {
            return Err(Error::INVALID_VALUE);
        }
        let context = found.context;
        self.finish_context(context)?;
        self.release(base);
        Ok(())
    }
}
