//! libFuzzer entry point of [`fuzz::server`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::server::run(data));
