//! Scratch directories that remove themselves, and those of processes that died without doing so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A scratch directory `mv<pid>-<n>` under the system's temporary directory, mode 0755, removed on drop.
#[derive(Debug)]
pub struct Temp(PathBuf);

impl Temp {
    /// Makes a new empty directory.
    pub fn new() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mv{}-{n}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("the scratch directory is writable");
        path
    }

    /// Writes an executable shell script (mode 0755) and returns its path.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod of our own file");
        path
    }
}

impl Default for Temp {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the scratch directories of test processes that are gone.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().and_then(owner).is_some_and(|pid| !alive(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process id in a name of the form `mv<pid>-<anything>`.
pub fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("mv")?.split_once('-')?.0.parse().ok()
}

/// Whether a process of this id exists.
pub fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_ours_tells_its_owner() {
        assert_eq!(owner("mv123-0c"), Some(123));
        assert_eq!(owner("mv123"), None);
        assert_eq!(owner("mvx-1"), None);
        assert_eq!(owner("other123-1"), None);
    }

    #[test]
    fn a_dropped_directory_is_gone() {
        let temp = Temp::new();
        let path = temp.path().to_owned();
        temp.write("f", "x");
        assert!(path.exists());
        drop(temp);
        assert!(!path.exists());
    }
}
