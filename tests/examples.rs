//! The examples run to their end, as they are: their files are modules here.

#[path = "../examples/quickstart.rs"]
mod quickstart;

#[cfg(feature = "gpu")]
#[path = "../examples/own_device.rs"]
mod own_device;

#[path = "../examples/schemes.rs"]
mod schemes;

#[test]
fn quickstart_runs() {
    quickstart::main().unwrap();
}

#[cfg(feature = "gpu")]
#[test]
fn own_device_runs() {
    own_device::main().unwrap();
}

#[test]
fn schemes_runs() {
    schemes::main().unwrap();
}
