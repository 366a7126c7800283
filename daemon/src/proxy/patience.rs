//! How long who is waited for. A value and no constants, so that tests need not wait as long.

use std::time::Duration;

/// Times after which somebody is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// A client, with its request.
    pub request: Duration,
    /// A name server, with an answer.
    pub question: Duration,
    /// All name servers, with all questions of one name.
    pub name: Duration,
    /// One address that is connected to.
    pub address: Duration,
    /// All of one destination: its name and its addresses.
    pub connection: Duration,
    /// A tunnel whose server is away, before requests are told so.
    pub tunnel: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            request: Duration::from_secs(10),
            question: Duration::from_secs(4),
            name: Duration::from_secs(15),
            address: Duration::from_secs(15),
            connection: Duration::from_secs(60),
            tunnel: Duration::from_secs(2),
        }
    }
}
