#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = lowbit::file::imatrix::Imatrix::from_bytes("fuzz", bytes.to_vec());
});
