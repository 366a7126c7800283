//! The control process: the same executable started again, with a memfd and doorbells for all it has. It shuts itself into
//! the sandbox before it reads the first byte that came from outside.

use std::process::ExitCode;

use controlplane::{Random, SystemRandom};

use crate::control_plane::ControlPlane;
use crate::messages::ControlEnd;
use crate::sandbox;

/// The process's whole life. Ends when the link breaks; normally it is killed with the supervisor.
pub fn main() -> ExitCode {
    let entered =
        sandbox::enter(|given| ControlEnd::open(given.memfd, given.worker_bells, given.supervisor_bell), warm_up);
    match entered {
        Ok(end) => {
            let error = ControlPlane::new(end).run();
            eprintln!("control process: the link to the supervisor broke: {error}");
        }
        Err(error) => eprintln!("control process: the sandbox could not be set up: {error}"),
    }
    ExitCode::FAILURE
}

/// The cryptographic library looks at files and processor features on first use, and the clock looks up its vDSO: that
/// must be before the filter.
fn warm_up() {
    crate::clock::now();
    let mut bytes = [0; 32];
    SystemRandom.fill(&mut bytes);
}
