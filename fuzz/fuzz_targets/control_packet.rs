//! libFuzzer entry point of [`fuzz::control_packet`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::control_packet::run(data));
