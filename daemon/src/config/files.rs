//! The one way to files that a configuration has, so that tests and fuzzing can do without a file system.

use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// No file that a profile names is longer than this, in bytes (large CRLs included).
pub const MAX_FILE: u64 = 8 << 20;

/// Reads files. A closure from path to bytes is one too.
pub trait Files {
    /// The whole file; refused when longer than [`MAX_FILE`].
    fn read(&self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>>;
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    fn read(&self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = std::fs::File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let expected = usize::try_from(metadata.len().min(MAX_FILE)).unwrap_or(0);
        // Room for all of it at once: a growing buffer would leave copies of a key behind, unwiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(expected.saturating_add(1)));
        file.take(MAX_FILE.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }
}

impl<F: Fn(&Path) -> io::Result<Vec<u8>>> Files for F {
    fn read(&self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
        self(path).map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ordinary_file_is_an_error_and_not_a_hang() {
        assert_eq!(OsFiles.read(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(OsFiles.read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(OsFiles.read(Path::new("/nowhere/at/all")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(OsFiles.read(Path::new("/dev/null")).unwrap().is_empty());
    }
}
