//! Which implementation seals and opens: what may be asked for, what it comes to on this host, and why.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::library;
use crate::sys::ipsec_mb::{GcmKey, IpsecMb, SONAME, TAG_LEN, Unusable};

/// What may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AeadChoice {
    /// ipsec-mb where the host has it and it proves itself, the build's own library otherwise.
    #[default]
    Auto,
    /// aws-lc, or an error in a build without it.
    AwsLc,
    /// ring, or an error in a build without it.
    Ring,
    /// Intel's ipsec-mb for AES-GCM, or an error.
    IpsecMb,
}

impl AeadChoice {
    /// All of them.
    pub const ALL: [AeadChoice; 4] = [AeadChoice::Auto, AeadChoice::AwsLc, AeadChoice::Ring, AeadChoice::IpsecMb];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            AeadChoice::Auto => "auto",
            AeadChoice::AwsLc => "aws-lc",
            AeadChoice::Ring => "ring",
            AeadChoice::IpsecMb => "ipsec-mb",
        }
    }
}

impl fmt::Display for AeadChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What was written is none of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of auto, aws-lc, ring, ipsec-mb")]
pub struct UnknownAead;

impl FromStr for AeadChoice {
    type Err = UnknownAead;

    fn from_str(text: &str) -> Result<Self, UnknownAead> {
        AeadChoice::ALL.into_iter().find(|choice| choice.name() == text).ok_or(UnknownAead)
    }
}

/// What was asked for is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AeadError {
    /// This build was made with the other library.
    #[error("this build has {name}, not {0}", name = library::NAME)]
    NotInThisBuild(AeadChoice),
    /// ipsec-mb cannot be used.
    #[error("ipsec-mb cannot be used: {0}")]
    IpsecMb(#[from] Unusable),
}

/// The implementation that runs, and why: for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AeadInfo {
    /// `aws-lc`, `ring` or `ipsec-mb`.
    pub name: &'static str,
    /// Why this one, and what it uses: one line.
    pub why: String,
}

impl fmt::Display for AeadInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AEAD {}: {}", self.name, self.why)
    }
}

/// A resolved choice: what keys are made with. Cheap to clone. The default is the build's own library.
#[derive(Clone, Debug)]
pub struct Aead {
    pub(super) backend: Backend,
    info: Arc<AeadInfo>,
}

/// Who makes the keys.
#[derive(Clone, Copy, Debug)]
pub(super) enum Backend {
    Library,
    /// AES-GCM; everything else is the library's.
    IpsecMb(IpsecMb),
    #[cfg(feature = "no-crypto")]
    None,
}

impl Aead {
    /// Finds out what the choice comes to here. The first call that looks at ipsec-mb loads it and runs its vectors (below a
    /// millisecond); do it before the packets flow.
    ///
    /// # Errors
    /// [`AeadChoice::Auto`] never fails; each other choice does when it is not to be had.
    pub fn resolve(choice: AeadChoice) -> Result<Aead, AeadError> {
        Aead::resolve_with(choice, IpsecMb::load)
    }

    fn resolve_with(choice: AeadChoice, load: impl FnOnce() -> Result<IpsecMb, Unusable>) -> Result<Aead, AeadError> {
        match choice {
            AeadChoice::AwsLc | AeadChoice::Ring if choice.name() == library::NAME => Ok(Aead::library("asked for")),
            AeadChoice::AwsLc | AeadChoice::Ring => Err(AeadError::NotInThisBuild(choice)),
            AeadChoice::IpsecMb => Ok(Aead::ipsec_mb(load()?)?),
            AeadChoice::Auto => {
                let loaded = load().and_then(Aead::ipsec_mb);
                Ok(loaded.unwrap_or_else(|why| Aead::library(format!("ipsec-mb is not used: {why}"))))
            }
        }
    }

    /// The build's own library, for this reason.
    fn library(why: impl Into<String>) -> Aead {
        Aead::new(Backend::Library, library::NAME, why.into())
    }

    /// A loaded ipsec-mb, unless it and our library disagree.
    pub(super) fn ipsec_mb(loaded: IpsecMb) -> Result<Aead, Unusable> {
        agrees(&loaded)?;
        let (version, level) = (loaded.version(), loaded.level().name());
        let why = format!("AES-GCM by {SONAME} {version} ({level}), ChaCha20-Poly1305 by {}", library::NAME);
        Ok(Aead::new(Backend::IpsecMb(loaded), "ipsec-mb", why))
    }

    /// No cryptography: packets are copied, the tag is zero and nobody looks at it. For the row of a benchmark that shows what
    /// everything else costs.
    #[cfg(feature = "no-crypto")]
    pub fn none() -> Aead {
        Aead::new(Backend::None, "none", "no cryptography at all, for benchmarks only".into())
    }

    fn new(backend: Backend, name: &'static str, why: String) -> Aead {
        Aead { backend, info: Arc::new(AeadInfo { name, why }) }
    }

    /// Which implementation it is, and why.
    pub fn info(&self) -> &AeadInfo {
        &self.info
    }
}

impl Default for Aead {
    fn default() -> Self {
        Aead::library("the library of this build")
    }
}

/// Message lengths on both sides of every change of loop in the implementations.
const COMPARED: [usize; 10] = [1, 16, 63, 129, 256, 513, 1023, 1400, 4096, 9001];

/// The known answers are short, and long messages run through other loops: they must come out as our library has them.
fn agrees(loaded: &IpsecMb) -> Result<(), Unusable> {
    let agree = |cipher: link::message::Cipher| {
        let bytes: Vec<u8> = (0..9001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (key, aad) = (bytes.get(1..=cipher.key_len())?, bytes.get(100..108)?);
        let (mut ours, mut theirs) = (library::Key::new(cipher, key)?, GcmKey::new(loaded, key)?);
        let agree = COMPARED.iter().filter_map(|&len| bytes.get(..len)).all(|message| {
            let (nonce, mut tags) = (message.len() as u128, [[0; TAG_LEN]; 2]);
            let (mut one, mut two, mut opened) = (message.to_vec(), message.to_vec(), message.to_vec());
            ours.seal(nonce, aad, message, &mut one, &mut tags[0])
                && theirs.seal(nonce, aad, message, &mut two, &mut tags[1])
                && one == two
                && tags[0] == tags[1]
                && theirs.open(nonce, aad, &one, &tags[0], &mut opened)
                && opened == message
        });
        Some(agree)
    };
    match super::AES.into_iter().filter(|&cipher| super::supports(cipher)).find(|&cipher| agree(cipher) != Some(true)) {
        Some(cipher) => Err(Unusable::WrongAnswer(format!("{}, compared with {}", cipher.name(), library::NAME))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_read_as_it_is_written() {
        for choice in AeadChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for other in ["", "Auto", "none", "openssl"] {
            assert_eq!(other.parse::<AeadChoice>(), Err(UnknownAead), "{other}");
        }
        assert_eq!(AeadChoice::default(), AeadChoice::Auto);
    }

    #[test]
    fn the_builds_library_can_be_asked_for_and_the_other_one_cannot() {
        for choice in [AeadChoice::AwsLc, AeadChoice::Ring] {
            match Aead::resolve(choice) {
                Ok(aead) => {
                    assert_eq!((aead.info().name, choice.name()), (library::NAME, library::NAME));
                    assert!(matches!(aead.backend, Backend::Library));
                }
                Err(error) => {
                    assert_ne!(choice.name(), library::NAME);
                    assert_eq!(error, AeadError::NotInThisBuild(choice));
                }
            }
        }
        assert_eq!(Aead::default().info().name, library::NAME);
    }

    #[test]
    fn without_ipsec_mb_auto_says_why_and_uses_the_library() {
        for why in [
            Unusable::Platform,
            Unusable::Processor,
            Unusable::Missing("no such file".into()),
            Unusable::Symbol("aes_gcm_pre_128_sse".into()),
            Unusable::WrongAnswer("AES-128-GCM, sse".into()),
        ] {
            let aead = Aead::resolve_with(AeadChoice::Auto, || Err(why.clone())).unwrap();
            assert!(matches!(aead.backend, Backend::Library));
            assert_eq!(aead.info().to_string(), format!("AEAD {}: ipsec-mb is not used: {why}", library::NAME));
            let asked = Aead::resolve_with(AeadChoice::IpsecMb, || Err(why.clone()));
            assert_eq!(asked.unwrap_err(), AeadError::IpsecMb(why));
        }
    }

    #[test]
    fn asking_for_the_library_does_not_load_ipsec_mb() {
        for choice in [AeadChoice::AwsLc, AeadChoice::Ring] {
            let _ = Aead::resolve_with(choice, || panic!("loaded"));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn with_ipsec_mb_auto_uses_it() {
        for choice in [AeadChoice::Auto, AeadChoice::IpsecMb] {
            let aead = Aead::resolve(choice).unwrap();
            assert_eq!(aead.info().name, "ipsec-mb", "install libipsec-mb1: {}", aead.info());
            assert!(aead.info().why.contains("libIPSec_MB.so.1 1."), "{}", aead.info());
            assert!(matches!(aead.clone().backend, Backend::IpsecMb(_)));
        }
    }
}
