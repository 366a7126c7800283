//! The means of the whole-system tests: namespaces, a PKI, OpenVPN as peer, our client, our gateway, a bad network, traffic.
//!
//! A test program in `tests/` reads as a scenario: it lays a [`netns::Net`], writes a [`setup::Setup`], starts
//! [`stock::Server`] and [`ours::Client`], or [`gateway::Gateway`] and a [`crowd`], and looks at what arrives. What may go in here: whatever more than one
//! scenario needs. Nothing here is used by the product, so a broken assumption panics with one sentence.
//!
//! Set `MINIVPN_TEST_CLIENT=stock` to run the scenarios with OpenVPN itself as the client: what fails then is
//! the harness or the peer, not minivpn. Set `MINIVPN_TEST_LONG=1` for the complete form of each scenario.

pub mod behind;
pub mod cells;
pub mod checker;
pub mod crowd;
pub mod echo;
pub mod flood;
pub mod gateway;
pub mod iperf;
pub mod load;
pub mod netns;
pub mod ours;
pub mod paced;
pub mod pairwise;
pub mod pki;
pub mod process;
pub mod reflect;
pub mod relay;
pub mod setup;
pub mod steady;
pub mod stock;
pub mod temp;
pub mod traffic;
pub mod unprivileged;
pub mod usage;

/// Whether the complete form of the scenarios was asked for (`MINIVPN_TEST_LONG=1`).
pub fn long() -> bool {
    std::env::var_os("MINIVPN_TEST_LONG").is_some_and(|v| v == "1")
}
