//! The bodies of the fuzz targets, as plain functions: libFuzzer runs them with new inputs, and the tests replay the
//! corpus, and mutations of it, on a stable toolchain. Each body checks properties beside "nothing panics"; which,
//! its first paragraph says. [`TARGETS`] lists them all.

pub mod client;
pub mod coalesce;
pub mod control_packet;
pub mod inbound;
pub mod key_method;
pub mod link_mapping;
pub mod outbound;
pub mod profile;
pub mod push;
pub mod server;
pub mod split;
pub mod wrap;

mod flow;
mod inner;
mod input;

/// A target's name, which is that of its corpus folder, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("client", client::run),
    ("coalesce", coalesce::run),
    ("control_packet", control_packet::run),
    ("inbound", inbound::run),
    ("key_method", key_method::run),
    ("link_mapping", link_mapping::run),
    ("outbound", outbound::run),
    ("profile", profile::run),
    ("push", push::run),
    ("server", server::run),
    ("split", split::run),
    ("wrap", wrap::run),
];
