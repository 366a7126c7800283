//! `minivpn trace`: the handshake with a server, packet by packet, as lines, as a file and as a drawing. The control plane runs in
//! this process over a socket; there is no TUN device, no data plane, no worker, and no privilege is needed.
//!
//! | file | what belongs in it |
//! |---|---|
//! | `run.rs` | the remotes in order, names resolved, the end of it all |
//! | `attempt.rs` | one address: packets, timers and signals until it is established or failed |
//! | `socket.rs`, `farewell.rs` | the UDP socket; the goodbye in the data channel, for servers that know no other |
//! | `event.rs` | an event as it stands in the file |
//! | `reasons.rs` | sentences: why a packet was ignored, what a stage means |
//! | `pushed.rs` | which pushed options are shown in full |
//! | `journal.rs` | where events go, and what is counted of them |
//! | `line.rs` | an event as a line for people |
//! | `rows.rs`, `waterfall.rs`, `svg.rs` | events on a time line: what is drawn, on a terminal, as a picture |

mod attempt;
mod event;
mod farewell;
mod journal;
mod line;
mod pushed;
mod reasons;
mod rows;
mod run;
mod socket;
mod svg;
mod waterfall;

use crate::cli::trace::Trace;
use crate::client;
use crate::exit::{Exit, Fatal};
use crate::supervisor;
use journal::Journal;
use run::Run;

/// `minivpn trace FILE`: 0 when a session was established, else what `connect` would end with.
pub fn main(options: Trace, quiet: bool) -> Exit {
    match prepare_and_run(options, quiet) {
        Ok(()) => Exit::Ok,
        Err(fatal) => {
            tracing::error!("{fatal}");
            fatal.exit
        }
    }
}

fn prepare_and_run(options: Trace, quiet: bool) -> Result<(), Fatal> {
    let profile = client::load(&options.file)?;
    let journal = Journal::open(&options, quiet)?;
    let ran = supervisor::block_on(async move { Run::new(options, profile, journal)?.run().await });
    ran.map_err(|error| Fatal::new(Exit::Other, format!("the runtime could not be started: {error}")))?
}
