//! Key material and certificates that a profile holds or names: where they come from, and whether they are what they should be.

use std::path::{Path, PathBuf};

use controlplane::{Credentials, Secret};
use zeroize::Zeroizing;

use super::agreed::CredentialSource;
use super::files::Files;
use super::looks;
use super::problem::At;
use super::secrets::SecretText;
use super::values::{Trouble, quoted};
use super::written::Directive;
use crate::exit::permitted;

/// What is to stand in a file of `auth-user-pass`.
const TWO_LINES: &str = "the user name is the first line, the password the second";

/// What a directive like `ca` gives: a block or the name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it was said.
    pub at: At,
    /// The directive.
    pub name: &'static str,
    from: From,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Block(SecretText),
    File(String),
    /// `name [inline]`: the block stands elsewhere.
    Elsewhere,
}

impl Source {
    /// The source that a directive names: its block or its first argument. `None` for neither.
    pub fn of(directive: &Directive) -> Option<Self> {
        let from = match (&directive.line.block, directive.line.args.first()) {
            (Some(block), _) => From::Block(block.clone()),
            (None, Some(word)) if word == "[inline]" => From::Elsewhere,
            (None, Some(file)) => From::File(file.clone()),
            (None, None) => return None,
        };
        Some(Source { at: directive.line.at.clone(), name: directive.row.name, from })
    }

    /// Puts it where a later one replaces an earlier one, but `[inline]` never replaces its own block.
    pub fn put(self, place: &mut Option<Source>) {
        if self.from != From::Elsewhere || place.is_none() {
            *place = Some(self);
        }
    }

    /// The file that it names, relative to `directory`.
    pub(super) fn file(&self, directory: &Path) -> Option<PathBuf> {
        match &self.from {
            From::File(file) => Some(directory.join(file)),
            From::Block(_) | From::Elsewhere => None,
        }
    }

    /// The place of a line of its text, from 1. `directory`: where relative names start.
    pub fn line(&self, number: u32, directory: &Path) -> At {
        match &self.from {
            From::File(file) => At { file: directory.join(file).display().to_string().into(), line: number },
            // The text of a block begins below its first line.
            From::Block(_) | From::Elsewhere => At { line: self.at.line.saturating_add(number), ..self.at.clone() },
        }
    }

    /// The text itself.
    pub fn load(&self, places: &Lookup<'_>) -> Result<SecretText, Trouble> {
        match &self.from {
            From::Block(text) => Ok(text.clone()),
            From::File(file) => {
                places.read(file, if self.name == "auth-user-pass" { TWO_LINES } else { "PEM is wanted" })
            }
            From::Elsewhere => Err(Trouble::new("it says [inline], and there is no block")
                .instead(format!("add <{0}> … </{0}>", self.name))),
        }
    }
}

/// Where the files are that a profile names. A relative name starts at the `cd` directives, which start at the current directory: as
/// OpenVPN does it, not at the profile's own directory.
pub struct Lookup<'a> {
    /// The profile.
    pub profile: &'a Path,
    /// Its `cd`.
    pub directory: PathBuf,
    /// The files.
    pub files: &'a dyn Files,
}

impl Lookup<'_> {
    /// A file that the profile names.
    ///
    /// # Errors
    /// It cannot be read, or is not text; then `wanted` is what to write instead.
    pub fn read(&self, file: &str, wanted: &str) -> Result<SecretText, Trouble> {
        let path = self.directory.join(file);
        let bytes = self.files.read(&path).map_err(|error| self.cannot_read(file, &error))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            let like = looks::like(&bytes).map_or_else(String::new, |like| format!(", but {like}"));
            Trouble::new(format!("{} is not text{like}", quoted(file))).instead(wanted)
        })?;
        Ok(SecretText::from(text))
    }

    fn cannot_read(&self, file: &str, error: &std::io::Error) -> Trouble {
        let trouble = Trouble::new(format!("cannot read {}: {error}{}", quoted(file), permitted(error)));
        let beside = self.profile.parent().map(|directory| directory.join(file));
        match beside {
            Some(beside) if Path::new(file).is_relative() && self.files.read(&beside).is_ok() => {
                let directory = self.profile.parent().unwrap_or(Path::new("")).display();
                trouble
                    .instead(format!("it is beside the profile: start there, or add `cd {directory}` to the profile"))
            }
            _ => trouble,
        }
    }
}

/// One or more certificates in PEM.
pub fn certificates(text: SecretText) -> Result<String, Trouble> {
    pem(text.expose(), "CERTIFICATE", "certificate")
}

/// One or more certificate revocation lists in PEM.
pub fn revocation_lists(text: SecretText) -> Result<String, Trouble> {
    pem(text.expose(), "X509 CRL", "revocation list")
}

/// A private key in PEM that needs no password.
pub fn private_key(text: &SecretText) -> Result<Secret, Trouble> {
    let text = text.expose();
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(Trouble::new("the private key is encrypted")
            .instead("decrypt it: `openssl pkey -in client.key -out plain.key`"));
    }
    let kinds = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
    if kinds.iter().any(|kind| has_pem(text, kind)) {
        return Ok(Secret(text.as_bytes().to_vec()));
    }
    Err(Trouble::new(format!("no private key in PEM in it{}", but_like(text)))
        .instead("it starts with `-----BEGIN PRIVATE KEY-----`"))
}

/// SHA-256 fingerprints, one on a line, as `openssl x509 -fingerprint -sha256` prints them.
pub fn fingerprints(text: &str) -> Result<Vec<[u8; 32]>, Trouble> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    lines.map(fingerprint).collect()
}

/// One SHA-256 fingerprint: 32 bytes in hexadecimal with colons between.
pub fn fingerprint(text: &str) -> Result<[u8; 32], Trouble> {
    let wrong = || {
        Trouble::new(format!("{} is not a SHA-256 fingerprint", quoted(text)))
            .instead("write 32 bytes as in AB:CD:…, from `openssl x509 -noout -fingerprint -sha256 -in server.crt`")
    };
    let byte = |pair: &str| {
        let digits = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        if digits { u8::from_str_radix(pair, 16).map_err(|_| wrong()) } else { Err(wrong()) }
    };
    let bytes: Vec<u8> = text.split(':').map(byte).collect::<Result<_, _>>()?;
    <[u8; 32]>::try_from(bytes).map_err(|_| wrong())
}

/// The two lines of `auth-user-pass`: user name and password, at most 127 bytes each. Without the second line, whose place is `second`,
/// somebody will be asked.
pub fn credentials(text: &SecretText, second: At) -> Result<CredentialSource, Trouble> {
    // The first line of a key would be sent as a user name, and the second as a password.
    if let Some(like) = looks::like(text.expose().as_bytes()) {
        return Err(Trouble::new(format!("this is {like}")).instead(TWO_LINES));
    }
    let mut lines = text.expose().lines();
    let username = lines.next().unwrap_or_default().to_owned();
    let password = Zeroizing::new(lines.next().unwrap_or_default().to_owned());
    if username.is_empty() {
        return Err(Trouble::new("no user name in it").instead(TWO_LINES));
    }
    if username.len() > 127 || password.len() > 127 {
        return Err(Trouble::new("user name or password is longer than 127 bytes"));
    }
    if username.contains(char::is_control) || password.contains(char::is_control) {
        return Err(Trouble::new("user name or password has a control character"));
    }
    if password.is_empty() {
        return Ok(CredentialSource::PromptPassword { username, missing: Some(second) });
    }
    Ok(CredentialSource::Given(Credentials { username, password: Secret(password.as_bytes().to_vec()) }))
}

fn pem(text: &str, label: &str, what: &str) -> Result<String, Trouble> {
    if has_pem(text, label) {
        return Ok(text.to_owned());
    }
    Err(Trouble::new(format!("no {what} in PEM in it{}", but_like(text)))
        .instead(format!("it starts with `-----BEGIN {label}-----`")))
}

fn but_like(text: &str) -> String {
    looks::like(text.as_bytes()).map_or_else(String::new, |like| format!(", but {like}"))
}

/// A beginning with its end after it.
fn has_pem(text: &str, label: &str) -> bool {
    let begin = format!("-----BEGIN {label}-----");
    text.split_once(&begin).is_some_and(|(_, rest)| rest.contains(&format!("-----END {label}-----")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_needs_its_beginning_and_its_end_in_order() {
        let good = "x\n-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(good.into()).unwrap(), good);
        for wrong in ["", "AA==", "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE----------BEGIN CERTIFICATE-----"]
        {
            assert!(certificates(wrong.into()).is_err(), "{wrong}");
        }
        assert!(revocation_lists(good.into()).is_err());
        assert!(revocation_lists("-----BEGIN X509 CRL-----\n-----END X509 CRL-----".into()).is_ok());
    }

    #[test]
    fn a_private_key_may_have_three_forms_and_no_password() {
        for kind in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            assert!(
                private_key(&format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n").as_str().into()).is_ok()
            );
        }
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(private_key(&encrypted.into()).unwrap_err().what.contains("encrypted"));
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----\n";
        assert!(private_key(&old.into()).unwrap_err().what.contains("encrypted"));
        assert!(private_key(&"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".into()).is_err());
    }

    #[test]
    fn a_fingerprint_is_thirty_two_bytes() {
        let good = ["aB"; 32].join(":");
        assert_eq!(fingerprint(&good), Ok([0xab; 32]));
        assert_eq!(fingerprints(&format!("# mine\n\n {good} \n{good}\r\n")).unwrap().len(), 2);
        for wrong in [
            String::new(),
            ["ab"; 31].join(":"),
            ["ab"; 33].join(":"),
            ["+b"; 32].join(":"),
            ["abc"; 32].join(":"),
            "ab".repeat(32),
        ] {
            assert!(fingerprint(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_two_lines_and_the_second_may_be_asked() {
        let second = || At { file: "pw".into(), line: 2 };
        let credentials = |text: &SecretText| credentials(text, second());
        let given = credentials(&"me\r\nsecret word\r\nrest\n".into()).unwrap();
        let password = Secret(b"secret word".to_vec());
        assert_eq!(given, CredentialSource::Given(Credentials { username: "me".into(), password }));
        assert_eq!(
            credentials(&"me\n".into()),
            Ok(CredentialSource::PromptPassword { username: "me".into(), missing: Some(second()) })
        );
        let key = credentials(&"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n".into()).unwrap_err();
        assert_eq!(key.sentence(), format!("this is a private key in PEM: {TWO_LINES}"));
        let long = "x".repeat(128);
        for wrong in ["", "\npw", &format!("{long}\npw"), &format!("me\n{long}"), "me\npw\u{7}"] {
            assert!(credentials(&wrong.into()).is_err(), "{wrong}");
        }
        assert!(credentials(&format!("{0}\n{0}", &long[1..]).as_str().into()).is_ok());
    }
}
