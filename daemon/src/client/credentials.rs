//! User name and password of a client: from the profile or a person; a session token that the server gave replaces the
//! password until the server refuses the token.

use std::io::{IsTerminal, Write};

use controlplane::{Credentials, Secret};

use crate::config::agreed::CredentialSource;
use crate::config::problem::At;
use crate::exit::{Exit, Fatal};
use crate::observe::prompt;

/// What a login is made with, besides a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// The profile asks for no password.
    Nothing,
    /// A user name and a password.
    Password,
    /// A token in the password's place.
    Token,
}

/// What the next connection authenticates with.
#[derive(Debug, Default)]
pub(crate) struct Wallet {
    password: Option<Credentials>,
    token: Option<Credentials>,
}

impl Wallet {
    /// Asks a person for what the profile leaves open.
    ///
    /// # Errors
    /// [`Exit::Config`] when somebody has to be asked and there is no terminal.
    pub(crate) fn open(source: &CredentialSource) -> Result<Wallet, Fatal> {
        Ok(Wallet { password: obtain(source)?, token: None })
    }

    /// Without asking anybody: those that are given, else the profile's. `None`: the profile leaves something open.
    pub(crate) fn given(source: &CredentialSource, given: Option<Credentials>) -> Option<Wallet> {
        let password = match (source, given) {
            (_, Some(given)) => Some(given),
            (CredentialSource::None, None) => None,
            (CredentialSource::Given(known), None) => Some(known.clone()),
            (CredentialSource::Prompt | CredentialSource::PromptPassword { .. }, None) => return None,
        };
        Some(Wallet { password, token: None })
    }

    /// For the next connection: the token when there is one.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        self.token.as_ref().or(self.password.as_ref()).cloned()
    }

    /// What logins are made with. A token that came within a session is used from its next renegotiation on.
    pub(crate) fn offers(&self) -> Offer {
        match (&self.token, &self.password) {
            (Some(_), _) => Offer::Token,
            (None, Some(_)) => Offer::Password,
            (None, None) => Offer::Nothing,
        }
    }

    /// The server gave a token: it stands in for the password from now on.
    pub(crate) fn take_token(&mut self, token: Secret, username: Option<String>) {
        let known = self.password.as_ref().map(|c| c.username.clone());
        let username = username.or(known).unwrap_or_default();
        self.token = Some(Credentials { username, password: token });
    }

    /// The server refused the token (or the session it belonged to). True when there was one: the password is next.
    pub(crate) fn drop_token(&mut self) -> bool {
        self.token.take().is_some()
    }

    /// `auth-retry interact`: the password was refused; ask again.
    ///
    /// # Errors
    /// As [`Wallet::open`].
    pub(crate) fn ask_again(&mut self, source: &CredentialSource) -> Result<(), Fatal> {
        let source = match source {
            CredentialSource::Given(known) => {
                CredentialSource::PromptPassword { username: known.username.clone(), missing: None }
            }
            other => other.clone(),
        };
        self.password = obtain(&source)?;
        Ok(())
    }
}

fn obtain(source: &CredentialSource) -> Result<Option<Credentials>, Fatal> {
    Ok(match source {
        CredentialSource::None => None,
        CredentialSource::Given(credentials) => Some(credentials.clone()),
        CredentialSource::Prompt => {
            let username = ask_name()?;
            let password = ask_password(&username, None)?;
            Some(Credentials { username, password })
        }
        CredentialSource::PromptPassword { username, missing } => {
            let password = ask_password(username, missing.as_ref())?;
            Some(Credentials { username: username.clone(), password })
        }
    })
}

fn ask_name() -> Result<String, Fatal> {
    require_terminal(None)?;
    eprint!("User name: ");
    let mut line = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut line));
    match read {
        Ok(n) if n > 0 => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        _ => Err(Fatal::new(Exit::Config, NO_TERMINAL)),
    }
}

/// `missing`: where the password would stand.
fn ask_password(username: &str, missing: Option<&At>) -> Result<Secret, Fatal> {
    require_terminal(missing)?;
    match prompt::password(&format!("Password of {username}: ")) {
        Ok(Some(password)) => Ok(Secret(password)),
        Ok(None) => Err(Fatal::new(Exit::Other, "interrupted at the password prompt")),
        Err(error) => Err(Fatal::new(Exit::Config, format!("the password could not be read: {error}"))),
    }
}

const NO_TERMINAL: &str = "the profile asks for a user name and password, and there is no terminal to ask on: \
write them on two lines of a file (mode 0600) and name it with `auth-user-pass FILE`";

fn require_terminal(missing: Option<&At>) -> Result<(), Fatal> {
    if std::io::stdin().is_terminal() { Ok(()) } else { Err(Fatal::new(Exit::Config, no_terminal(missing))) }
}

fn no_terminal(missing: Option<&At>) -> String {
    missing.map_or_else(
        || NO_TERMINAL.to_owned(),
        |at| {
            format!(
                "{at}: the password is missing, and there is no terminal to ask on: write it on this line, below the user name \
                 (and give the file the mode 0600)"
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wallet() -> Wallet {
        let given = Credentials { username: "alice".into(), password: Secret(b"pw".to_vec()) };
        Wallet::open(&CredentialSource::Given(given)).unwrap()
    }

    #[test]
    fn a_token_replaces_the_password_and_keeps_the_name() {
        let mut wallet = wallet();
        wallet.take_token(Secret(b"token".to_vec()), None);
        let next = wallet.credentials().unwrap();
        assert_eq!((next.username.as_str(), next.password.0.as_slice()), ("alice", b"token".as_slice()));
    }

    #[test]
    fn a_refused_token_gives_way_to_the_password_once() {
        let mut wallet = wallet();
        assert_eq!(wallet.offers(), Offer::Password);
        wallet.take_token(Secret(b"token".to_vec()), Some("bob".into()));
        assert_eq!((wallet.credentials().unwrap().username.as_str(), wallet.offers()), ("bob", Offer::Token));
        assert!(wallet.drop_token());
        assert!(!wallet.drop_token());
        assert_eq!(
            (wallet.credentials().unwrap().password.0.as_slice(), wallet.offers()),
            (b"pw".as_slice(), Offer::Password)
        );
    }

    #[test]
    fn a_token_that_came_after_another_was_refused_gives_way_as_well() {
        let mut wallet = wallet();
        for token in [b"one", b"two"] {
            wallet.take_token(Secret(token.to_vec()), None);
            assert_eq!(wallet.offers(), Offer::Token);
            wallet.drop_token();
        }
        assert_eq!(wallet.offers(), Offer::Password);
        assert_eq!(Wallet::default().offers(), Offer::Nothing);
    }

    #[test]
    fn a_password_that_is_missing_is_missed_where_it_should_stand() {
        let at = At { file: "pw.txt".into(), line: 2 };
        assert!(no_terminal(Some(&at)).starts_with("pw.txt:2: the password is missing"));
        assert!(no_terminal(None).contains("auth-user-pass FILE"));
    }

    #[test]
    fn a_wallet_that_nobody_is_asked_for_takes_what_is_given_before_what_the_profile_says() {
        let credentials = |name: &str| Credentials { username: name.into(), password: Secret(b"pw".to_vec()) };
        let name = |source, given| Wallet::given(&source, given).map(|w| w.credentials().map(|c| c.username));
        let known = || CredentialSource::Given(credentials("profile"));
        assert_eq!(name(known(), None), Some(Some("profile".into())));
        assert_eq!(name(known(), Some(credentials("caller"))), Some(Some("caller".into())));
        assert_eq!(name(CredentialSource::None, None), Some(None));
        assert_eq!(name(CredentialSource::Prompt, Some(credentials("caller"))), Some(Some("caller".into())));
        assert_eq!(name(CredentialSource::Prompt, None), None);
        assert_eq!(name(CredentialSource::PromptPassword { username: "bob".into(), missing: None }, None), None);
    }
}
