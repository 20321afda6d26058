//! What only a driver can refuse, or report.

use infer_kernels::attention::prefill::{HeadShape, PrefillError, PrefillPlan, PrefillProblem};
use infer_kernels::{DType, DeviceError, catalog};

use crate::alone::alone;
use crate::{BACKENDS, emulated};

/// The error of loading a kernel through each backend.
fn refused(check: impl Fn(DeviceError)) {
    let heads = HeadShape {
        query: 2,
        kv: 1,
        dim: 64,
    };
    for backend in BACKENDS {
        let problem = PrefillProblem::new(DType::F16, heads, 1, 1);
        match PrefillPlan::new(&emulated(backend), &problem) {
            Err(PrefillError::Device(error)) => check(error),
            other => panic!("{backend}: {other:?}"),
        }
    }
}

#[test]
fn ptx_too_new_for_the_driver_names_both_versions() {
    let variables = [("PTX_EMULATOR_DRIVER_VERSION", "10.2")];
    let name = "driver_errors::ptx_too_new_for_the_driver_names_both_versions";
    alone(name, &variables, || {
        refused(|error| {
            let DeviceError::PtxTooNew {
                ptx,
                needs,
                driver,
                accepts,
                ..
            } = &error
            else {
                panic!("{error}");
            };
            let entry = catalog::find("prefill_f16_d64").unwrap();
            assert_eq!(*ptx, entry.ptx_version);
            assert!(*needs > *driver && *ptx > *accepts);
            assert_eq!((*driver, *accepts), ((10, 2), (6, 5)));
        })
    });
}

#[test]
fn a_kernel_that_the_driver_does_not_load_comes_with_its_words() {
    let variables = [("CUDA_DISABLE_PTX_JIT", "1")];
    let name = "driver_errors::a_kernel_that_the_driver_does_not_load_comes_with_its_words";
    alone(name, &variables, || {
        refused(|error| {
            let DeviceError::Load { entry, message } = &error else {
                panic!("{error}");
            };
            assert_eq!(*entry, "prefill_f16_d64");
            let known = [
                "CUDA_ERROR_JIT_COMPILATION_DISABLED (223)",
                "CUDA_DISABLE_PTX_JIT",
            ];
            assert!(
                known.iter().all(|words| message.contains(words)),
                "{message}"
            );
        })
    });
}

#[test]
fn without_a_device_the_drivers_answer_is_given() {
    let variables = [("PTX_EMULATOR_DEVICES", "0")];
    let name = "driver_errors::without_a_device_the_drivers_answer_is_given";
    alone(name, &variables, || {
        for backend in BACKENDS {
            let error = infer_kernels::Device::named(backend).unwrap_err();
            assert!(matches!(error, DeviceError::NoDevice { .. }), "{error}");
            assert!(
                error.to_string().contains("100 (no CUDA device)"),
                "{error}"
            );
        }
    });
}

/// Stores a word far beyond the null page.
const STRAY: &str = "
    .version 7.0
    .target sm_80
    .address_size 64
    .visible .entry stray() {
        .reg .b64 %rd1;
        mov.u64 %rd1, 4096;
        st.global.u32 [%rd1], 0;
        ret;
    }";

/// Both waits and copies report what an earlier launch did, with the driver's own words.
fn reported(stream: &infer_kernels::Stream) {
    let illegal = |error: DeviceError| {
        let DeviceError::Driver {
            code,
            name,
            message,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(code, 700);
        assert!(message.contains("illegal memory access"), "{message}");
        name
    };
    let name = illegal(stream.synchronize().unwrap_err());
    assert!(
        ["CUDA_ERROR_ILLEGAL_ADDRESS", "IllegalAddress"].contains(&name.as_str()),
        "{name}"
    );
    // It sticks.
    illegal(stream.synchronize().unwrap_err());
}

#[cfg(feature = "cudarc")]
#[test]
fn a_failed_launch_is_reported_through_cudarc() {
    let name = "driver_errors::a_failed_launch_is_reported_through_cudarc";
    alone(name, &[], || {
        use cudarc::driver::LaunchConfig;
        let stream = emulated("cudarc").stream();
        let own = stream.as_cudarc().unwrap();
        let module = own
            .context()
            .load_module(cudarc::nvrtc::Ptx::from_src(STRAY))
            .unwrap();
        let function = module.load_function("stray").unwrap();
        let config = LaunchConfig::for_num_elems(1);
        // SAFETY: Not kept: the kernel stores where nothing is, and the driver is to find that out.
        unsafe { own.launch_builder(&function).launch(config) }.unwrap();
        reported(&stream);
    });
}

#[cfg(feature = "cust")]
#[test]
fn a_failed_launch_is_reported_through_cust() {
    let name = "driver_errors::a_failed_launch_is_reported_through_cust";
    alone(name, &[], || {
        let stream = emulated("cust").stream();
        let module = cust::module::Module::from_ptx(STRAY, &[]).unwrap();
        let function = module.get_function("stray").unwrap();
        let own = stream.as_cust().unwrap();
        // SAFETY: As above.
        unsafe { own.launch(&function, 1, 1, 0, &[]) }.unwrap();
        reported(&stream);
    });
}
