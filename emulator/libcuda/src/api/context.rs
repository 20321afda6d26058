//! Contexts.

use crate::abi::{In, Out, exports};
use crate::driver::{CURRENT, Handle, Session};
use crate::error::{Error, Result};

/// Lowest and highest priority of streams.
pub const PRIORITIES: (i32, i32) = (0, -5);
/// Flags that a context can have.
const FLAGS: u32 = 0xff;

exports! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        let mut driver = Session::open()?;
        let handle = driver.primary(device)?;
        driver.device_mut(device)?.retained += 1;
        context.set(handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let mut driver = Session::open()?;
        let own = driver.device_mut(device)?;
        let Some(context) = own.primary.filter(|_| own.retained > 0) else {
            return Err(Error::INVALID_CONTEXT);
        };
        own.retained -= 1;
        match own.retained {
            0 => driver.destroy_context(context),
            _ => Ok(()),
        }
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        let mut driver = Session::open()?;
        match driver.device(device)?.primary {
            Some(context) => driver.destroy_context(context),
            None => Ok(()),
        }
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let mut driver = Session::open()?;
        let own = driver.device_mut(device)?;
        if flags & !FLAGS != 0 {
            return Err(Error::INVALID_VALUE);
        }
        own.primary_flags = flags;
        if let Some(context) = own.primary {
            driver.context_mut(context)?.flags = flags;
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let driver = Session::open()?;
        let own = driver.device(device)?;
        flags.put(own.primary_flags);
        active.put(i32::from(own.primary.is_some()));
        Ok(())
    }

    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(context: Out<Handle>, affinity: In<u8>, affinities: i32, flags: u32, device: i32) {
        if !affinity.is_null() || affinities != 0 {
            return Err(Error::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: Out<Handle>, params: In<[usize; 3]>, flags: u32, device: i32) {
        if !params.is_null() && params.get()? != [0; 3] {
            return Err(Error::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let mut driver = Session::open()?;
        if driver.context(context)?.primary {
            return Err(Error::INVALID_CONTEXT);
        }
        driver.destroy_context(context)?;
        CURRENT.with_borrow_mut(|current| {
            if current.last() == Some(&context) {
                current.pop();
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        Session::open()?.context(context)?;
        CURRENT.with_borrow_mut(|current| current.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        Session::open()?;
        let popped = CURRENT.with_borrow_mut(Vec::pop);
        context.put(popped.ok_or(Error::INVALID_CONTEXT)?);
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle) {
        let driver = Session::open()?;
        if context != 0 {
            driver.context(context)?;
        }
        CURRENT.with_borrow_mut(|current| {
            current.pop();
            if context != 0 {
                current.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        Session::open()?;
        let current = CURRENT.with_borrow(|contexts| contexts.last().copied());
        context.set(current.unwrap_or(0))
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        let driver = Session::open()?;
        let context = driver.current_even_if_failed()?;
        device.set(driver.context(context)?.device as i32)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) {
        let driver = Session::open()?;
        let context = driver.context_or_current(context)?;
        device.set(driver.context(context)?.device as i32)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        let driver = Session::open()?;
        flags.set(driver.context(driver.current()?)?.flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        let mut driver = Session::open()?;
        if flags & !FLAGS != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let context = driver.current()?;
        driver.context_mut(context)?.flags = flags;
        Ok(())
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        let driver = Session::open()?;
        id.set(driver.context_or_current(context)? as u64)
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        let driver = Session::open()?;
        driver.context_or_current(context)?;
        version.set(3020)
    }

    fn cuCtxSynchronize() {
        let mut driver = Session::open()?;
        let context = driver.current()?;
        driver.refuse_captures_of(context)?;
        driver.finish_context(context)
    }

    fn cuCtxSynchronize_v2(context: Handle) {
        let mut driver = Session::open()?;
        let context = driver.context_or_current(context)?;
        driver.refuse_captures_of(context)?;
        driver.finish_context(context)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let driver = Session::open()?;
        let default = default_limit(limit)?;
        let context = driver.context(driver.current()?)?;
        value.set(context.limits.get(&limit).copied().unwrap_or(default))
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let mut driver = Session::open()?;
        default_limit(limit)?;
        let context = driver.current()?;
        driver.context_mut(context)?.limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        Session::open()?.current().map(|_| ())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        let driver = Session::open()?;
        config.set(driver.context(driver.current()?)?.cache_config)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        let mut driver = Session::open()?;
        if config > 3 {
            return Err(Error::INVALID_VALUE);
        }
        let context = driver.current()?;
        driver.context_mut(context)?.cache_config = config;
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        let driver = Session::open()?;
        config.set(driver.context(driver.current()?)?.shared_config)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        let mut driver = Session::open()?;
        if config > 2 {
            return Err(Error::INVALID_VALUE);
        }
        let context = driver.current()?;
        driver.context_mut(context)?.shared_config = config;
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        Session::open()?.current()?;
        least.put(PRIORITIES.0);
        greatest.put(PRIORITIES.1);
        Ok(())
    }

    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) {
        let driver = Session::open()?;
        driver.current()?;
        driver.context(peer)?;
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        Err(Error::PEER_ACCESS_UNSUPPORTED)
    }

    fn cuCtxDisablePeerAccess(peer: Handle) {
        let driver = Session::open()?;
        driver.current()?;
        driver.context(peer)?;
        Err(Error::PEER_ACCESS_NOT_ENABLED)
    }
}

fn create(context: Out<Handle>, flags: u32, device: i32) -> Result {
    let mut driver = Session::open()?;
    driver.device(device)?;
    if flags & !FLAGS != 0 || context.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let handle = driver.new_context(device as usize, false, flags);
    CURRENT.with_borrow_mut(|current| current.push(handle));
    context.set(handle)
}

/// Limits by number: stack, printf, heap, depth and launches of device code, L2 granularity and
/// persistence.
fn default_limit(limit: u32) -> Result<usize> {
    match limit {
        0 => Ok(1024),
        1 => Ok(1 << 20),
        2 => Ok(8 << 20),
        3 => Ok(2),
        4 => Ok(2048),
        5 => Ok(64),
        6 => Ok(0),
        7..=9 => Err(Error::UNSUPPORTED_LIMIT),
        _ => Err(Error::INVALID_VALUE),
    }
}
