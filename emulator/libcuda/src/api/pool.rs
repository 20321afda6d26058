//! Pools of memory for allocation in stream order.

use crate::abi::{In, Out, exports};
use crate::api::memory::Location;
use crate::driver::{Handle, Session};
use crate::error::{Error, Result};
use crate::memory::Pool;

/// `CUmemPoolProps`, as far as it is looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    allocation: u32,
    handles: u32,
    location: Location,
}

exports! {
    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) {
        pool.set(Session::open()?.device(device)?.default_pool)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) {
        pool.set(Session::open()?.device(device)?.pool)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle) {
        let mut driver = Session::open()?;
        let known = driver.pools.get(&pool).ok_or(Error::INVALID_VALUE)?;
        if known.device as i32 != device {
            return Err(Error::INVALID_VALUE);
        }
        driver.device_mut(device)?.pool = pool;
        Ok(())
    }

    fn cuMemPoolCreate(pool: Out<Handle>, properties: In<Properties>) {
        let mut driver = Session::open()?;
        let properties = properties.get()?;
        // Pinned memory of a device, not to be shared with other processes.
        if (properties.allocation, properties.location.kind) != (1, 1) {
            return Err(Error::INVALID_VALUE);
        }
        if properties.handles != 0 {
            return Err(Error::NOT_SUPPORTED);
        }
        driver.device(properties.location.id)?;
        let handle = driver.handle();
        driver.pools.insert(handle, Pool::new(properties.location.id as usize, false));
        pool.set(handle)
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let mut driver = Session::open()?;
        let known = driver.pools.get(&pool).ok_or(Error::INVALID_VALUE)?;
        if known.of_device {
            return Err(Error::INVALID_VALUE);
        }
        let device = known.device;
        driver.pools.remove(&pool);
        let device = &mut driver.devices[device];
        if device.pool == pool {
            device.pool = device.default_pool;
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        let driver = Session::open()?;
        driver.pools.get(&pool).map(|_| ()).ok_or(Error::INVALID_VALUE)
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: Out<u64>) {
        let driver = Session::open()?;
        let pool = driver.pools.get(&pool).ok_or(Error::INVALID_VALUE)?;
        match attribute {
            // The first three are of type int.
            1..=3 => value.cast::<i32>().set(pool.attributes[&attribute] as i32),
            4 => value.set(pool.attributes[&attribute]),
            // Nothing is held in reserve: what is reserved is what is used.
            5 | 7 => value.set(pool.used),
            6 | 8 => value.set(pool.most_used),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: Out<u64>) {
        let mut driver = Session::open()?;
        let pool = driver.pools.get_mut(&pool).ok_or(Error::INVALID_VALUE)?;
        match attribute {
            1..=3 => {
                let value = value.cast::<i32>().get()?;
                pool.attributes.insert(attribute, value as u64);
            }
            4 => {
                pool.attributes.insert(attribute, value.get()?);
            }
            // High marks can only be reset.
            6 | 8 => match value.get()? {
                0 => pool.most_used = pool.used,
                _ => return Err(Error::INVALID_VALUE),
            },
            _ => return Err(Error::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolSetAccess(pool: Handle, _list: In<u8>, _count: usize) {
        refuse_sharing(pool)
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle, location: In<Location>) {
        let driver = Session::open()?;
        let pool = driver.pools.get(&pool).ok_or(Error::INVALID_VALUE)?;
        let location = location.get()?;
        let own = (location.kind, location.id) == (1, pool.device as i32);
        flags.set(if own { 3 } else { 0 })
    }
}

fn refuse_sharing(pool: Handle) -> Result {
    let driver = Session::open()?;
    driver.pools.get(&pool).ok_or(Error::INVALID_VALUE)?;
    crate::say_once("cuMemPoolSetAccess: devices cannot reach into each other's memory");
    Err(Error::NOT_SUPPORTED)
}
