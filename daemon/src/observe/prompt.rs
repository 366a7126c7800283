//! A question to a person whose answer is not shown. Ours, because ^C at such a question must give the terminal its echo
//! back, which the crates for it leave to the process that they have just ended.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroize;

/// ^C, as the terminal would turn it into SIGINT.
const INTERRUPT: u8 = 3;
/// The longest line that a terminal gives, in bytes (termios(3)).
const LONGEST: usize = 4_096;

/// Asks on the controlling terminal. `None`: the person pressed ^C.
///
/// # Errors
/// There is no terminal, or it cannot be read.
pub fn password(question: &str) -> io::Result<Option<Vec<u8>>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(question.as_bytes())?;
    let silence = Silence::on(&terminal)?;
    let answer = read_line(&mut &terminal);
    drop(silence);
    terminal.write_all(b"\n")?;
    answer
}

/// A terminal without echo, on which ^C is a character that ends the line. Dropping it restores what was.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn on(terminal: &'a File) -> io::Result<Silence<'a>> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// One line without its end. The bytes are wiped where they are not handed out.
fn read_line(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::with_capacity(LONGEST);
    let mut byte = [0];
    while line.len() < LONGEST && input.read(&mut byte)? == 1 {
        match byte[0] {
            INTERRUPT => {
                line.zeroize();
                return Ok(None);
            }
            b'\n' | b'\r' => break,
            other => line.push(other),
        }
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_end_and_at_an_interrupt() {
        let read = |bytes: &[u8]| read_line(&mut io::Cursor::new(bytes)).unwrap();
        assert_eq!(read(b"secret\nmore"), Some(b"secret".to_vec()));
        assert_eq!(read(b"secret"), Some(b"secret".to_vec()));
        assert_eq!(read(b"sec\x03"), None);
        assert_eq!(read(&[b'x'; 2 * LONGEST]).map(|line| line.len()), Some(LONGEST));
    }
}
