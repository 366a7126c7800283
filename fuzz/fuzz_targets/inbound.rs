//! libFuzzer entry point of [`fuzz::inbound`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::inbound::run(data));
