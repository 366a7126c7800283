//! libFuzzer entry point of [`fuzz::key_method`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::key_method::run(data));
