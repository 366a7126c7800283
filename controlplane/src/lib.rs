//! The OpenVPN control channel as pure code: no socket, no clock, no file, no thread, no `unsafe`.
//!
//! An endpoint ([`Client`], [`Server`]) is driven by `handle_*` calls and drained by `poll_output`. The present
//! ([`Now`]) and randomness ([`Random`]) are parameters, so a seed replays everything.
//!
//! # Order of calls
//! 1. `Client::new`, once per profile.
//! 2. `connect` (or `resume`), once per session.
//! 3. Any of `handle_datagram`, `handle_timeout`, `handle_key_event`, `rebind`, `disconnect`, `renegotiate`, as
//!    things happen.
//! 4. After **every** call of 2 and 3: `poll_output` until it says `Idle`. Outputs take effect in their order:
//!    a resume record must be kept before the datagram after it is sent.
//!
//! Who wants to see what happens on the way says [`Client::observe`] and calls [`Client::take_trace`] after every call.
//!
//! A [`Server`] is driven alike, without step 2: sessions begin by themselves. Every [`Event::Login`] is answered by
//! `admit` or `refuse` when whoever judges it is ready; other sessions do not wait for that.
//!
//! ```no_run
//! use controlplane::{Client, ClientSetup, Event, KeyEvent, Now, Output, Path, SystemRandom};
//!
//! fn run(setup: ClientSetup, path: Path, now: fn() -> Now) -> Result<(), controlplane::Ending> {
//!     let mut rng = SystemRandom;
//!     let mut client = Client::new(setup, now())?;
//!     client.connect(now(), &mut rng, 1, path, None);
//!     loop {
//!         let wake = loop {
//!             match client.poll_output() {
//!                 Output::Transmit { path, bytes } => { /* send bytes to path.remote */ }
//!                 Output::Event(Event::InstallKey(key)) => {
//!                     // put it where packets are sealed and opened, then say so:
//!                     client.handle_key_event(now(), &mut rng, KeyEvent::KeyInstalled(key.name));
//!                 }
//!                 Output::Event(Event::Ended { ending, .. }) => return Err(ending),
//!                 Output::Event(_) => {}
//!                 Output::Idle { wake } => break wake,
//!             }
//!         };
//!         // wait for a datagram until `wake`, then one of:
//!         let received: Option<Vec<u8>> = None;
//!         match received {
//!             Some(bytes) => client.handle_datagram(now(), &mut rng, &path, &bytes),
//!             None => client.handle_timeout(now(), &mut rng),
//!         }
//!     }
//! }
//! ```

#![forbid(unsafe_code)]

pub mod client;
pub mod controlchannel;
pub mod crypto;
pub mod error;
pub mod ids;
pub mod keys;
pub mod listener;
mod negotiation;
pub mod output;
pub mod packet;
pub mod reliabletransport;
pub mod server;
mod session;
pub mod setup;
pub mod timers;
pub mod tlssession;
pub mod trace;
pub mod wrap;

pub use client::Client;
pub use crypto::{Random, SystemRandom};
pub use output::{Event, Output};
pub use server::Server;
pub use setup::*;
pub use timers::{Instant, Now, TimerReason};
