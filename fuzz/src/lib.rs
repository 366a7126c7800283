//! The bodies of the fuzz targets, as plain functions: libFuzzer runs them with new inputs, and the tests replay the
//! corpus on a stable toolchain.

pub mod link_mapping;
