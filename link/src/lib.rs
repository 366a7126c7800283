//! The link between the planes: lock-free rings over memory that two processes map, the messages that cross them, and
//! the doorbells that wake a sleeper. Policy does not belong here: who may send what is decided by the ends' owners.
//!
//! From the bottom up:
//! - `shm`: the sealed memfd and its mapping;
//! - [`layout`]: where each ring lies in it;
//! - [`ring`]: one producer, one consumer, each treating the other as an enemy;
//! - [`sleep`] and `bell`: how a consumer sleeps and is woken;
//! - [`message`]: what crosses;
//! - `channel`: typed ends of one ring;
//! - `ends`: all channels of one thread.
//!
//! ```text
//! supervisor ──To───▶ control process ──WorkerCommand, Datagram──▶ worker
//!            ◀─From──                 ◀─WorkerEvent, Datagram─────
//! ```
//!
//! `To` and `From` are the ends' type parameters: what these two say to each other is not the link's business.

#![deny(unsafe_code)]

pub mod message;
pub mod ring;
pub mod sleep;
pub mod sync;

// The model checker looks at the ring's logic; its atomics cannot lie in shared memory.
#[cfg(not(loom))]
mod bell;
#[cfg(not(loom))]
mod channel;
#[cfg(not(loom))]
mod ends;
#[cfg(not(loom))]
pub mod layout;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod shm;

pub use message::*;

#[cfg(not(loom))]
pub use bell::{Bell, EventBell, FutexBell};
#[cfg(not(loom))]
pub use channel::{CommandReceiver, CommandSender, DatagramReceiver, DatagramSender, LinkError, QueueBound};
#[cfg(not(loom))]
pub use ends::{ControlEnd, Shared, SupervisorEnd, WorkerEnd, create, create_within};
#[cfg(not(loom))]
pub use layout::MAX_WORKERS;
#[cfg(not(loom))]
pub use shm::{Mapping, Region};
