//! The user name and the password that clients have to give, where the proxy has one.

use controlplane::Secret;
use controlplane::crypto::ct_eq;

/// A user name and a password.
#[derive(Debug)]
pub(super) struct Login {
    user: String,
    password: Secret,
}

impl Login {
    /// This one.
    pub(super) fn new(user: String, password: Secret) -> Login {
        Login { user, password }
    }

    /// Whether both are right. How long it takes says nothing of where they differ.
    pub(super) fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        let user = ct_eq(self.user.as_bytes(), user);
        let password = ct_eq(&self.password.0, password);
        user & password
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_to_be_right() {
        let login = Login::new("ann".into(), Secret(b"s3cret".to_vec()));
        assert!(login.admits(b"ann", b"s3cret"));
        for (user, password) in [("ann", "s3cre"), ("ann", ""), ("an", "s3cret"), ("", ""), ("ann", "s3cret ")] {
            assert!(!login.admits(user.as_bytes(), password.as_bytes()), "{user} {password}");
        }
    }
}
