//! Files that are there whole or not at all: written under another name, forced to the disk, then renamed. Whoever reads
//! sees the old content or the new one, also after a crash.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid, fchown};

/// The longest file that is read from a state directory, in bytes. An index of a million certificates has 200 MB.
pub const LONGEST: u64 = 256 * 1024 * 1024;

/// A file's content that is on the disk but does not have its name yet. Without [`Staged::commit`] it stays under the
/// name of [`staged_name`], where the next opening of the directory finds it.
#[derive(Debug)]
pub struct Staged {
    from: PathBuf,
    to: PathBuf,
}

impl Staged {
    /// Gives the content its name.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn commit(self) -> io::Result<()> {
        std::fs::rename(&self.from, &self.to)?;
        sync_directory(&self.to)
    }
}

/// Writes a file (0600) as a whole, in the place of one that may be there. The caller has made sure that nobody else
/// writes it.
///
/// # Errors
/// What the file system answers; the former content is untouched then.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    stage_as(path, &aside(path, "new"), content, None)?.commit()
}

/// Puts content (0600) in the place of a file, without forcing it to the disk: for what is written again and again. Where
/// no second file can be made beside it (a directory that is not ours), or none can take its place (a file mounted into a
/// container), it is overwritten in place. Neither follows a link that somebody put there: these directories may be
/// another user's.
///
/// # Errors
/// What the file system answers; the old file is then still there, unless it was overwritten in place.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let placed = fresh(&beside)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&beside, path))
        .inspect_err(|_| _ = std::fs::remove_file(&beside));
    match placed {
        Err(error) if is_not_to_be_replaced(&error) => overwrite(path, content),
        placed => placed,
    }
}

fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(path)?.write_all(content)
}

fn is_not_to_be_replaced(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
}

/// A new file (0600) of this name, which nobody else had.
fn fresh(path: &Path) -> io::Result<File> {
    // What a crash left there is of no use, and what somebody else put there (a link, say) is not followed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)
}

/// [`write()`], with another owner: user and group.
///
/// # Errors
/// As [`write()`].
pub fn write_for(path: &Path, content: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    stage_as(path, &aside(path, "new"), content, owner)?.commit()
}

/// Whether [`write()`] could write this file: one of no length is made beside it, and removed.
///
/// # Errors
/// As [`write()`].
pub fn try_to_write(path: &Path) -> io::Result<()> {
    let beside = aside(path, "new");
    drop(fresh(&beside)?);
    std::fs::remove_file(&beside)
}

/// Writes content that will be a file when it is committed.
///
/// # Errors
/// What the file system answers.
pub fn stage(path: &Path, content: &[u8]) -> io::Result<Staged> {
    stage_as(path, &staged_name(path), content, None)
}

/// Where content waits to become the file `path`.
pub fn staged_name(path: &Path) -> PathBuf {
    aside(path, "staged")
}

/// The content of a file; `None` when there is none.
///
/// # Errors
/// What the file system answers, and files longer than [`LONGEST`].
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = Vec::new();
    file.take(LONGEST.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is longer than any of this kind"));
    }
    Ok(Some(content))
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// What the file system answers.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) => sync_directory(path),
        Err(error) => Err(error),
    }
}

fn stage_as(path: &Path, aside: &Path, content: &[u8], owner: Option<(u32, u32)>) -> io::Result<Staged> {
    let mut file = fresh(aside)?;
    let written = file.write_all(content).and_then(|()| match owner {
        Some((user, group)) => Ok(fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?),
        None => Ok(()),
    });
    match written.and_then(|()| file.sync_all()) {
        Ok(()) => Ok(Staged { from: aside.to_owned(), to: path.to_owned() }),
        Err(error) => {
            // Half a file helps nobody; the error that matters is the first.
            let _ = std::fs::remove_file(aside);
            Err(error)
        }
    }
}

/// A name beside a file's own, hidden: `.alice.pem.new`.
fn aside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// A rename is on the disk when its directory is (fsync(2)).
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::Folder;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_file_is_replaced_as_a_whole_and_is_its_owners_alone() {
        let folder = Folder::new();
        let path = folder.path().join("x");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"two"[..]));
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        assert_ne!(metadata.ino(), inode, "the old content was overwritten in place");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_written_again_and_again_follows_no_link_of_somebody_elses() {
        let folder = Folder::new();
        let (victim, path) = (folder.path().join("victim"), folder.path().join("x"));
        std::fs::write(&victim, "precious").unwrap();
        for planted in ["x.new", "x"] {
            symlink(&victim, folder.path().join(planted)).unwrap();
            replace(&path, b"mine").unwrap();
            assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "{planted}");
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!((metadata.is_symlink(), metadata.permissions().mode() & 0o7777), (false, 0o600));
            assert_eq!(read(&path).unwrap().as_deref(), Some(&b"mine"[..]));
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_overwritten_in_place() {
        let folder = Folder::new();
        let path = folder.path().join("x");
        std::fs::write(&path, "a longer content").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ResourceBusy, io::ErrorKind::ReadOnlyFilesystem] {
            assert!(is_not_to_be_replaced(&kind.into()));
        }
        assert!(
            !is_not_to_be_replaced(&io::ErrorKind::StorageFull.into()),
            "the old content is better than half of the new"
        );
        overwrite(&path, b"short").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        symlink(&path, folder.path().join("link")).unwrap();
        assert!(overwrite(&folder.path().join("link"), b"x").is_err(), "it would lead anywhere");
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn what_lies_in_the_way_is_neither_followed_nor_kept() {
        let folder = Folder::new();
        let (victim, path) = (folder.path().join("victim"), folder.path().join("x"));
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, folder.path().join(".x.new")).unwrap();
        symlink(&victim, &path).unwrap();
        write(&path, b"mine").unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert!(!std::fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn staged_content_has_no_name_before_it_is_committed() {
        let folder = Folder::new();
        let path = folder.path().join("x");
        let staged = stage(&path, b"later").unwrap();
        assert!(!path.exists() && staged_name(&path).exists());
        staged.commit().unwrap();
        assert!(path.exists() && !staged_name(&path).exists());
    }

    #[test]
    fn removing_twice_is_removing_once() {
        let folder = Folder::new();
        let path = folder.path().join("x");
        write(&path, b"").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
