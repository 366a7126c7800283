//! libFuzzer entry point of [`fuzz::wrap`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::wrap::run(data));
