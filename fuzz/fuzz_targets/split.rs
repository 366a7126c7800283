//! libFuzzer entry point of [`fuzz::split`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::split::run(data));
