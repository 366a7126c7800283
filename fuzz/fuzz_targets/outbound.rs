//! libFuzzer entry point of [`fuzz::outbound`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::outbound::run(data));
