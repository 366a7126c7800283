//! The files that one run of a script needs, in a directory of its own (0700) that is gone when the run is over,
//! whatever became of it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use controlplane::{Random, SystemRandom};

/// The directory; removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Workdir {
    path: PathBuf,
}

impl Workdir {
    /// Makes one that did not exist before.
    ///
    /// # Errors
    /// What the kernel says: no such parent, no permission, no space.
    pub(super) fn make(parent: &Path) -> io::Result<Workdir> {
        let mut number = [0; 8];
        SystemRandom.fill(&mut number);
        let path = parent.join(format!("minivpn-{:016x}", u64::from_ne_bytes(number)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Workdir { path })
    }

    /// Makes a file (0600) with this content.
    ///
    /// # Errors
    /// What the kernel says; `AlreadyExists` for a second one of this name.
    pub(super) fn file(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        Ok(path)
    }

    /// What a script wrote into a file, `most` bytes of it and one more if there are more; nothing if it is gone.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` when it is a plain file no more.
    pub(super) fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        // A script may have put anything there: no link is followed, no pipe waited for.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(self.path.join(name));
        let file: File = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
        }
        let mut content = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut content)?;
        Ok(content)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_private_and_gone_afterwards() {
        let workdir = Workdir::make(&std::env::temp_dir()).unwrap();
        let path = workdir.file("user_pass", b"alice\nsecret\n").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(workdir.read("user_pass", 100).unwrap(), b"alice\nsecret\n");
        assert_eq!(workdir.read("user_pass", 5).unwrap(), b"alice\n", "one more than asked tells that there is more");
        assert!(workdir.file("user_pass", b"").is_err());
        assert_eq!(workdir.read("other", 5).unwrap(), b"");
        drop(workdir);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn links_and_pipes_are_not_read() {
        let workdir = Workdir::make(&std::env::temp_dir()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", workdir.path.join("link")).unwrap();
        assert!(workdir.read("link", 5).is_err());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            workdir.path.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert_eq!(workdir.read("pipe", 5).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        assert!(Workdir::make(Path::new("/proc/no/such")).is_err());
    }
}
