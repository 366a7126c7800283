//! libFuzzer entry point of [`fuzz::client`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::client::run(data));
