//! Finding a device: clean answers without a driver, and the emulator by name.

use infer_kernels::{BackendKind, Device, DeviceError};

/// On a machine with a GPU these say so; on one without, they say why not, and nothing panics.
#[cfg(any(feature = "cudarc", feature = "cust"))]
fn absent_or_real(device: Result<Device, DeviceError>, kind: BackendKind) {
    match device {
        Ok(device) => {
            assert_eq!(device.kind(), kind);
            assert!(device.kind().is_gpu() && !device.name().is_empty());
        }
        Err(DeviceError::NoDriver { reason } | DeviceError::NoDevice { reason }) => {
            assert!(!reason.is_empty());
        }
        Err(other) => panic!("neither a device nor a reason for having none: {other}"),
    }
}

#[cfg(feature = "cudarc")]
#[test]
fn cudarc_has_a_device_or_says_why_not() {
    absent_or_real(Device::cudarc(0), BackendKind::Cudarc);
    absent_or_real(Device::named("cudarc"), BackendKind::Cudarc);
}

#[cfg(feature = "cust")]
#[test]
fn cust_has_a_device_or_says_why_not() {
    absent_or_real(Device::cust(0), BackendKind::Cust);
    absent_or_real(Device::named("cust:0"), BackendKind::Cust);
}

#[cfg(not(feature = "cust"))]
#[test]
fn a_backend_that_was_not_built_names_its_feature() {
    let error = Device::cust(0).unwrap_err();
    assert!(matches!(
        error,
        DeviceError::NotBuilt {
            backend: BackendKind::Cust
        }
    ));
    assert_eq!(
        error.to_string(),
        "this build has no cust backend: enable the feature `cust`"
    );
}

#[cfg(any(feature = "cudarc", feature = "cust"))]
#[test]
fn an_ordinal_that_no_machine_has_is_refused() {
    for name in ["cudarc:4096", "cust:4096"] {
        let error = Device::named(name).unwrap_err();
        assert!(
            matches!(
                error,
                DeviceError::Ordinal { got: 4096, .. }
                    | DeviceError::NoDriver { .. }
                    | DeviceError::NoDevice { .. }
                    | DeviceError::NotBuilt { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn names_that_mean_nothing_are_refused() {
    for name in [
        "",
        "cuda",
        "cudarc:",
        "cudarc:x",
        "cudarc:-1",
        "emulator:0",
        "auto:1",
    ] {
        let error = Device::named(name).unwrap_err();
        assert!(matches!(error, DeviceError::Name { .. }), "{name}: {error}");
    }
}

#[cfg(feature = "emulator")]
#[test]
fn the_emulator_answers_to_its_name_and_says_what_it_is() {
    let device = Device::named("emulator").unwrap();
    assert_eq!(device.kind(), BackendKind::Emulator);
    assert!(!device.kind().is_gpu());
    assert!(
        device.to_string().starts_with("an emulated A100 (sm_80)"),
        "{device}"
    );
    assert!(device.limits().shared_per_block >= 160 << 10);
}

#[cfg(feature = "emulator")]
#[test]
fn auto_never_fails_and_a_demand_for_a_gpu_is_never_met_by_the_emulator() {
    let device = Device::auto().unwrap();
    match Device::require_gpu() {
        Ok(gpu) => assert_eq!(device.kind(), gpu.kind()),
        Err(_) => assert_eq!(device.kind(), BackendKind::Emulator),
    }
    if let Ok(gpu) = Device::named("gpu") {
        assert!(gpu.kind().is_gpu());
    }
}

/// Every launch of some work is told, in order, and none of what came before or behind.
#[cfg(feature = "emulator")]
#[test]
fn launches_of_some_work_are_told() {
    use infer_kernels::DType;
    use infer_kernels::elementwise::{NormArgs, NormPlan, NormProblem, NormWeight};

    let device = Device::emulator(Default::default());
    let stream = device.stream();
    let problem = NormProblem::new(DType::F16, 64, 0.0).weight(NormWeight::None);
    let plan = NormPlan::new(&device, &problem).unwrap();
    let mut x = stream.upload(&[half::f16::ONE; 3 * 64]).unwrap();
    let mut run = |rows: usize| {
        let rows = x.tensor_mut([3, 1, 64]).unwrap().narrow(0, 0..rows);
        plan.run(&stream, NormArgs::in_place(rows.unwrap()))
            .unwrap();
    };
    run(1);
    let ((), launches) = device.launches(|| (1..=3).for_each(&mut run));
    run(1);
    let bytes: Vec<u64> = launches.iter().map(|launch| launch.global_bytes).collect();
    assert_eq!(bytes, [1, 2, 3].map(|rows| rows * 2 * 64 * 2));
    assert!(device.launches(|| ()).1.is_empty());
}
