//! libFuzzer entry point of [`fuzz::link_mapping`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::link_mapping::run(data));
