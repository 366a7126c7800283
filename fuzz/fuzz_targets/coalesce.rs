//! libFuzzer entry point of [`fuzz::coalesce`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::coalesce::run(data));
