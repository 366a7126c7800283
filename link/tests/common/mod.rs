//! Toy messages between a supervisor and a control process: one of each shape that the real ones have. The link does
//! not know the real ones.

#![allow(dead_code)] // each test program uses its own part

use link::{Path, Secret};
use serde::{Deserialize, Serialize};

/// The supervisor's end of the tests' links.
pub(crate) type Supervisor = link::SupervisorEnd<ToControl, FromControl>;
/// The control process's end.
pub(crate) type Control = link::ControlEnd<ToControl, FromControl>;

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToControl {
    /// A number and nothing else.
    Number(u32),
    /// A text, perhaps a long one, and a path of the link's own.
    Text { number: u32, path: Path, text: String },
    /// What must not be printed.
    Password(Option<Secret>),
    /// The last one.
    End,
}

/// What the control process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromControl {
    /// The first one.
    Ready,
    /// A number and nothing else.
    Number(u32),
    /// A text, perhaps a long one.
    Text { number: u32, text: String },
    /// What must not be printed.
    Token(Box<Secret>),
}
