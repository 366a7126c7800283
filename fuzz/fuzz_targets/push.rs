//! libFuzzer entry point of [`fuzz::push`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::push::run(data));
