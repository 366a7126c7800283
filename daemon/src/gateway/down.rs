//! `minivpn gateway down`: ends a gateway and undoes what it changed on the host. Its keys and certificates are deleted
//! only on request, and only by somebody who says so twice.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use super::calls::{self, Answer};
use super::names::GatewayName;
use super::state;
use super::suggestion::Suggestions;
use super::{unit, whereabouts};
use crate::cli::gateway::Down;
use crate::clock;
use crate::exit::{Exit, Fatal};
use crate::outln;

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 256;

/// `minivpn gateway down …`
///
/// # Errors
/// What could not be stopped, undone or deleted; a purge that nobody confirmed.
pub fn down(options: &Down) -> Result<(), Fatal> {
    let (directory, name) = (options.which.directory(), &options.which.name);
    // Asked before anything is done: whoever says no has a gateway that runs.
    if options.purge && !options.yes {
        confirm_on_terminal(name)?;
    }
    // Who may not look into it may not end it either, and is told so before anything is half done.
    state::is_there(&directory)?;
    for said in unit::remove(name)? {
        outln!("{said}");
    }
    let socket = calls::whereabouts_of(name, &directory);
    match calls::stop(&socket) {
        Answer::Done => outln!("the running gateway was stopped"),
        Answer::NotRunning => {}
        Answer::Failed(why) => return Err(Fatal::new(Exit::Other, format!("the running gateway did not stop: {why}"))),
    }
    let (undone, failed) = calls::undo(&options.run_dir)?;
    for change in &undone {
        outln!("undone: {change}");
    }
    let cleaned = whereabouts::clean(&options.run_dir, name.as_str(), &directory, &socket);
    for path in &cleaned.removed {
        outln!("removed: {}, left by a gateway that was killed", path.display());
    }
    // No reason to keep anything else: whoever starts next looks there again.
    for (path, error) in &cleaned.failed {
        outln!("not removed: {}, left by a gateway that was killed: {error}", path.display());
    }
    if !failed.is_empty() {
        return Err(Fatal::new(Exit::Routes, failed.join("\n")));
    }
    if undone.is_empty() && cleaned.removed.is_empty() && cleaned.failed.is_empty() {
        outln!("nothing of it is left on this host");
    }
    if options.purge {
        state::purge(&directory, name, clock::now().unix)?;
        outln!("deleted: {}", directory.display());
    } else if directory.exists() {
        let purge = Suggestions::of(name, &directory).command("gateway down --purge");
        outln!("kept: {} (`{purge}` deletes its keys and certificates)", directory.display());
    }
    Ok(())
}

fn confirm_on_terminal(name: &GatewayName) -> Result<(), Fatal> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|_| {
        Fatal::new(
            Exit::Config,
            "--purge deletes keys for good, and there is no terminal to ask on: add --yes to mean it",
        )
    })?;
    let reader = terminal.try_clone().map_err(|error| Fatal::new(Exit::Other, format!("the terminal: {error}")))?;
    match confirm(name, &mut BufReader::new(reader), &mut &terminal) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fatal::new(Exit::Config, "nothing was done: the name was not confirmed")),
        Err(error) => Err(Fatal::new(Exit::Other, format!("the terminal: {error}"))),
    }
}

/// Whether a person types the gateway's name.
fn confirm(name: &GatewayName, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<bool> {
    write!(
        output,
        "This deletes the keys and certificates of gateway {name}; every profile becomes useless. Type its name: "
    )?;
    output.flush()?;
    let mut line = Vec::new();
    io::Read::take(input, LONGEST).read_until(b'\n', &mut line)?;
    Ok(line.trim_ascii() == name.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{Folder, gateway};

    #[test]
    fn only_the_name_confirms() {
        let name: GatewayName = "default".parse().unwrap();
        for (typed, good) in [("default\n", true), (" default \n", true), ("yes\n", false), ("\n", false), ("", false)]
        {
            let mut asked = Vec::new();
            assert_eq!(confirm(&name, &mut typed.as_bytes(), &mut asked).unwrap(), good, "{typed:?}");
            assert!(String::from_utf8(asked).unwrap().contains("default"));
        }
    }

    #[test]
    fn purging_deletes_everything_and_waits_for_nobody() {
        let folder = Folder::new();
        let state = gateway(folder.path());
        let (directory, name) = (state.directory().to_owned(), state.name().clone());
        assert!(state::purge(&directory, &name, 0).is_err(), "somebody is writing it");
        drop(state);
        state::purge(&directory, &name, clock::now().unix).unwrap();
        assert!(!directory.exists());
        assert!(matches!(state::purge(&directory, &name, 0), Err(state::StateError::Missing(..))));
    }
}
