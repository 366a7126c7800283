//! What a command says on standard output. Whoever reads may stop early (`minivpn client list | head -1`), and a command goes
//! on and does what it was asked for all the same: nothing here fails.

use std::fmt;
use std::io::{self, Write};

/// Writes to standard output; a reader that is gone is nobody's fault.
pub fn write(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}

/// Writes a line to standard output; false when nobody reads it any more, for commands that would go on without an end.
pub fn line(text: &str) -> bool {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// `println!` that outlives its reader.
#[macro_export]
macro_rules! outln {
    () => {
        $crate::observe::output::write(format_args!("\n"))
    };
    ($($arg:tt)*) => {
        $crate::observe::output::write(format_args!("{}\n", format_args!($($arg)*)))
    };
}

/// `print!` that outlives its reader.
#[macro_export]
macro_rules! out {
    ($($arg:tt)*) => {
        $crate::observe::output::write(format_args!($($arg)*))
    };
}
