//! What is known of a pointer.

use crate::abi::{In, Out, exports};
use crate::driver::Session;
use crate::error::{Error, Result};
use crate::memory::{Allocation, Home};

exports! {
    fn cuPointerGetAttribute(value: Out<u64>, attribute: u32, address: u64) {
        let driver = Session::open()?;
        let found = driver.allocation_at(address).ok_or(Error::INVALID_VALUE)?;
        if value.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        attribute_of(&driver, found, attribute, address)?.put(value);
        Ok(())
    }

    fn cuPointerGetAttributes(count: u32, attributes: In<u32>, values: In<Out<u64>>, address: u64) {
        let driver = Session::open()?;
        let found = driver.allocation_at(address);
        for index in 0..count as usize {
            let (attribute, value) = (attributes.at(index)?, values.at(index)?);
            match found {
                // Of a pointer that is not known, all is null.
                None => Value::Long(0).put_as(attribute, value),
                Some(found) => match attribute_of(&driver, found, attribute, address) {
                    Ok(known) => known.put(value),
                    Err(_) => Value::Long(0).put_as(attribute, value),
                },
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(_value: In<u8>, attribute: u32, address: u64) {
        let driver = Session::open()?;
        driver.allocation_at(address).ok_or(Error::INVALID_VALUE)?;
        // CU_POINTER_ATTRIBUTE_SYNC_MEMOPS is the only one that can be set.
        if attribute == 6 { Ok(()) } else { Err(Error::INVALID_VALUE) }
    }
}

/// A value as wide as its attribute's type.
enum Value {
    Long(u64),
    Int(u32),
    Byte(u8),
}

impl Value {
    fn put(self, place: Out<u64>) {
        match self {
            Value::Long(value) => place.put(value),
            Value::Int(value) => place.cast::<u32>().put(value),
            Value::Byte(value) => place.cast::<u8>().put(value),
        }
    }

    /// Zero, as wide as an attribute.
    fn put_as(self, attribute: u32, place: Out<u64>) {
        match attribute {
            2 | 9 | 16 => Value::Int(if attribute == 9 { u32::MAX - 1 } else { 0 }).put(place),
            6 | 8 | 10 | 13 | 15 => Value::Byte(0).put(place),
            _ => self.put(place),
        }
    }
}

fn attribute_of(
    driver: &Session,
    found: &Allocation,
    attribute: u32,
    address: u64,
) -> Result<Value> {
    let on_host = found.is_on_host() && !found.is_managed();
    let (start, size) = match found.home {
        Home::Registered { start, size } => (start, size),
        _ => (found.base, found.size),
    };
    Ok(match attribute {
        1 => Value::Long(found.context as u64),
        // CU_MEMORYTYPE_HOST or _DEVICE.
        2 => Value::Int(if on_host { 1 } else { 2 }),
        3 => Value::Long(address),
        4 if found.is_on_host() => Value::Long(address),
        6 => Value::Byte(0),
        7 | 20 => Value::Long(found.id),
        8 => Value::Byte(u8::from(found.is_managed())),
        9 => Value::Int(driver.contexts.get(&found.context).map_or(0, |c| c.device) as u32),
        10 | 15 => Value::Byte(0),
        11 => Value::Long(start),
        12 => Value::Long(size),
        13 => Value::Byte(1),
        14 => Value::Long(0),
        16 => Value::Int(3),
        17 => Value::Long(match found.home {
            Home::Pool(pool) => pool as u64,
            _ => 0,
        }),
        18 => Value::Long(size),
        19 => Value::Long(start),
        _ => return Err(Error::INVALID_VALUE),
    })
}
