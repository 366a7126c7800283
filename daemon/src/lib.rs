//! minivpn: an OpenVPN-compatible VPN daemon for Linux. This library is what the executable is made of.
//!
//! | module | what belongs in it |
//! |---|---|
//! | `bench` | `minivpn bench`: measuring and the report |
//! | `cli`, `exit` | the command line and the process status |
//! | `environment` | the command line's options as `MINIVPN_*` variables |
//! | `healthcheck` | `minivpn healthcheck` |
//! | `config` | profiles: lexing, one table of directives, what was written and what we agreed to run |
//! | `client` | the supervisor of `minivpn connect` |
//! | `ping` | `minivpn ping`: echo round trips through a tunnel without TUN device |
//! | `gateway` | the server's side: its certificates, its clients, its supervisor |
//! | `proxy` | `minivpn proxy`: SOCKS5 and HTTP CONNECT over a stack in user space |
//! | `supervisor` | its runtime |
//! | `embed` | the embeddable tunnel, whose names are also at the crate's root: [`Tunnel`] |
//! | `control_plane`, `control_process`, `sandbox` | TLS and the control channel, in a process that can do nothing else |
//! | `control_child`, `heartbeat` | the same process as its supervisor sees it, and how one that hangs is found out |
//! | `data_path` | flags of the workers, for whoever starts some |
//! | `timers` | points in time that have names, of the client and of the embeddable tunnel |
//! | `messages` | what the two say to each other |
//! | `host` | changes to the host, each of which knows its undo |
//! | `signals` | which signals ask for what, for client and gateway |
//! | `observe` | log, states, live line |
//! | `trace` | `minivpn trace`: the handshake as lines, as a file, as a drawing |
//! | `sys`, `clock` | the edges: descriptors and processes (the only `unsafe`), time |

#![deny(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
mod control_child;
pub mod control_plane;
pub mod control_process;
mod data_path;
pub mod embed;
pub mod environment;
pub mod exit;
pub mod gateway;
pub mod healthcheck;
mod heartbeat;
pub mod host;
pub mod messages;
pub mod observe;
pub mod ping;
pub mod proxy;
pub mod sandbox;
mod signals;
pub mod supervisor;
#[allow(unsafe_code)]
pub mod sys;
mod timers;
pub mod trace;

pub use embed::{
    AeadChoice, Batch, ConnectError, Credentials, Inner4, Inner6, InnerRoute, IoChoice, Observer, Options, Parameters,
    Progress, Reader, Secret, Stage, Tunnel, TunnelError, Writer, load_profile, parse_profile,
};
