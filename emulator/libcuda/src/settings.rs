//! What the environment says the emulated machine is like.
//!
//! | variable | means | default |
//! | --- | --- | --- |
//! | `PTX_EMULATOR_GPU` | model of each device, by name and separated by commas: `A100,RTX 4090` | `A100` |
//! | `PTX_EMULATOR_DEVICES` | number of devices; the last model is repeated | one per model |
//! | `PTX_EMULATOR_SEED` | seed of every order that is left open | 0 |
//! | `PTX_EMULATOR_CHECK` | rules to check: `all`, `none`, or some of `init,race,converged` | `all` |
//! | `PTX_EMULATOR_PERTURB` | 1: approximate functions err as much as the ISA allows | 0 |
//! | `PTX_EMULATOR_THREADS` | host threads that run blocks; 0: one per processor | 0 |
//! | `PTX_EMULATOR_MMA` | rounding of tensor operations: `fast`, `ampere`, `hopper` | `fast` |
//! | `PTX_EMULATOR_DRIVER_VERSION` | CUDA release of the driver: `12.4` | `13.0` |
//! | `PTX_EMULATOR_STREAMS` | `lazy`: work runs late and in a drawn order; `eager`: when enqueued | `lazy` |
//! | `PTX_EMULATOR_TRACE` | `1`: tells every call that fails, `2`: every call | off |
//!
//! `CUDA_LAUNCH_BLOCKING=1` is `eager` too, and `CUDA_DISABLE_PTX_JIT=1` lets no PTX be loaded, as
//! with any driver.

use ptx_emulator::{Checks, Config, Gpu, MmaMode};

/// Most devices there can be: each has a range of addresses of its own.
const MAX_DEVICES: usize = 8;

/// The machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Model of each device.
    pub gpus: Vec<Gpu>,
    /// What devices have in common.
    pub config: Config,
    /// As `cuDriverGetVersion` gives it: 13000 for 13.0.
    pub driver_version: u32,
    /// Whether work runs when it is enqueued.
    pub eager: bool,
    /// Whether PTX may be loaded.
    pub jit: bool,
    /// 0: silent, 1: failures, 2: all.
    pub trace: u32,
}

impl Settings {
    /// As the variables say that `get` knows.
    ///
    /// # Errors
    /// Which variable says what cannot be understood.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
        let wrong = |name: &str, value: &str, expected: &str| {
            format!("{name} is {value:?}, expected {expected}")
        };
        let number = |name: &str, default: u64| match get(name) {
            None => Ok(default),
            Some(text) => match text.trim().parse() {
                Ok(number) => Ok(number),
                Err(_) => Err(wrong(name, &text, "a number")),
            },
        };
        let models = get("PTX_EMULATOR_GPU").unwrap_or_else(|| "A100".into());
        let mut gpus = models
            .split(',')
            .map(model)
            .collect::<Result<Vec<_>, _>>()?;
        let count = number("PTX_EMULATOR_DEVICES", gpus.len() as u64)?;
        if count > MAX_DEVICES as u64 {
            return Err(wrong(
                "PTX_EMULATOR_DEVICES",
                &count.to_string(),
                "at most 8",
            ));
        }
        if let Some(last) = gpus.last().cloned() {
            gpus.resize(count as usize, last);
        }
        let checks = match get("PTX_EMULATOR_CHECK").as_deref().map(str::trim) {
            None | Some("" | "all") => Checks::ALL,
            Some("none") => Checks::NONE,
            Some(list) => {
                let mut checks = Checks::NONE;
                for word in list.split(',') {
                    match word.trim() {
                        "init" => checks.init = true,
                        "race" => checks.race = true,
                        "converged" => checks.converged = true,
                        _ => {
                            let expected = "all, none, or some of init, race, converged";
                            return Err(wrong("PTX_EMULATOR_CHECK", list, expected));
                        }
                    }
                }
                checks
            }
        };
        let mma = match get("PTX_EMULATOR_MMA").as_deref() {
            None | Some("" | "fast") => MmaMode::Fast,
            Some("ampere") => MmaMode::Ampere,
            Some("hopper") => MmaMode::Hopper,
            Some(other) => {
                return Err(wrong("PTX_EMULATOR_MMA", other, "fast, ampere or hopper"));
            }
        };
        let streams = get("PTX_EMULATOR_STREAMS");
        let eager = match streams.as_deref() {
            None | Some("" | "lazy") => get("CUDA_LAUNCH_BLOCKING").is_some_and(|on| on == "1"),
            Some("eager") => true,
            Some(other) => return Err(wrong("PTX_EMULATOR_STREAMS", other, "lazy or eager")),
        };
        let driver_version = match get("PTX_EMULATOR_DRIVER_VERSION") {
            None => 13_000,
            Some(text) => match version(&text) {
                Some(version) => version,
                None => {
                    return Err(wrong(
                        "PTX_EMULATOR_DRIVER_VERSION",
                        &text,
                        "a release such as 12.4",
                    ));
                }
            },
        };
        Ok(Settings {
            config: Config {
                gpu: Gpu::A100,
                checks,
                seed: number("PTX_EMULATOR_SEED", 0)?,
                threads: number("PTX_EMULATOR_THREADS", 0)? as usize,
                mma,
                perturb: number("PTX_EMULATOR_PERTURB", 0)? != 0,
                print: true,
                ..Config::default()
            },
            gpus,
            driver_version,
            eager,
            jit: get("CUDA_DISABLE_PTX_JIT").is_none_or(|off| off != "1"),
            trace: number("PTX_EMULATOR_TRACE", 0)? as u32,
        })
    }
}

fn model(name: &str) -> Result<Gpu, String> {
    let plain = |name: &str| {
        let kept = name.chars().filter(|c| c.is_ascii_alphanumeric());
        kept.collect::<String>().to_lowercase()
    };
    let found = Gpu::ALL.iter().find(|gpu| plain(gpu.name) == plain(name));
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = Gpu::ALL.iter().map(|gpu| gpu.name).collect();
        format!("PTX_EMULATOR_GPU names {name:?}, expected of {names:?}")
    })
}

/// `12.4` as 12040.
fn version(text: &str) -> Option<u32> {
    let (major, minor) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 1000 && minor < 100).then_some(major * 1000 + minor * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn without_variables_there_is_one_a100() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.gpus, [Gpu::A100]);
        assert_eq!(settings.driver_version, 13_000);
        assert_eq!(settings.config.checks, Checks::ALL);
        assert!(!settings.eager);
    }

    #[test]
    fn variables_are_understood() {
        let settings = read(&[
            ("PTX_EMULATOR_GPU", "h100,rtx4090"),
            ("PTX_EMULATOR_DEVICES", "3"),
            ("PTX_EMULATOR_SEED", "7"),
            ("PTX_EMULATOR_CHECK", "race"),
            ("PTX_EMULATOR_MMA", "ampere"),
            ("PTX_EMULATOR_DRIVER_VERSION", "12.4"),
            ("CUDA_LAUNCH_BLOCKING", "1"),
        ])
        .unwrap();
        let gpus = [Gpu::H100, Gpu::RTX_4090, Gpu::RTX_4090];
        assert_eq!(settings.gpus, gpus);
        assert_eq!(
            (settings.config.seed, settings.config.mma),
            (7, MmaMode::Ampere)
        );
        assert!(settings.config.checks.race && !settings.config.checks.init);
        assert_eq!(settings.driver_version, 12_040);
        assert!(settings.eager);
        assert!(
            read(&[("PTX_EMULATOR_DEVICES", "0")])
                .unwrap()
                .gpus
                .is_empty()
        );
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (name, value) in [
            ("PTX_EMULATOR_GPU", "voodoo"),
            ("PTX_EMULATOR_DEVICES", "9"),
            ("PTX_EMULATOR_SEED", "-1"),
            ("PTX_EMULATOR_CHECK", "init,luck"),
            ("PTX_EMULATOR_MMA", "slow"),
            ("PTX_EMULATOR_DRIVER_VERSION", "new"),
            ("PTX_EMULATOR_STREAMS", "soon"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
