//! What a program may hear of a tunnel while it is made, used and closed; and who is told.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::stage::Stage;

/// Something that happened to a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// It is at this stage now.
    Stage(Stage),
    /// Nobody has answered for a while. Said after 5 and after 20 seconds of connecting; it goes on all the same.
    Unanswered {
        /// The address that is being tried.
        remote: SocketAddr,
        /// How many resets were sent there.
        resets: u32,
        /// How long connecting has taken so far.
        waited: Duration,
        /// What is the matter and what to look at, in one line.
        sentence: String,
    },
}

/// Who is told of a tunnel's [`Progress`]; see [`Options::observer`](crate::Options::observer).
pub struct Observer(Option<Box<Tell>>);

type Tell = dyn FnMut(&Progress) + Send;

impl Observer {
    /// `tell` is called on the control thread that all tunnels of the process share, each time before the tunnel goes on: it has to return
    /// at once, and must not wait for a tunnel. One that panics is not called again.
    pub fn new(tell: impl FnMut(&Progress) + Send + 'static) -> Observer {
        Observer(Some(Box::new(tell)))
    }

    /// Tells.
    pub(super) fn tell(&mut self, progress: &Progress) {
        if let Some(tell) = &mut self.0
            && catch_unwind(AssertUnwindSafe(|| tell(progress))).is_err()
        {
            tracing::error!("an observer of a tunnel panicked; it hears nothing any more");
            self.0 = None;
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn an_observer_that_panics_harms_nobody_and_is_left_alone() {
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let mut observer = Observer::new(move |_| {
            if counted.fetch_add(1, SeqCst) == 1 {
                panic!("as it is meant to");
            }
        });
        (0..4).for_each(|_| observer.tell(&Progress::Stage(Stage::Up)));
        assert_eq!(calls.load(SeqCst), 2);
    }
}
